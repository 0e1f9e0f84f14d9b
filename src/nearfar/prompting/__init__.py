"""Prompts: classes as texts, and the sentences that a class name is put into."""

from nearfar.prompting.class_texts import ClassTexts
from nearfar.prompting.prompt_templates import TEMPLATES, templates

__all__ = ["TEMPLATES", "ClassTexts", "templates"]
