"""Prompts: sentences for class names."""

from nearfar.prompting.templates import TEMPLATES, templates

__all__ = ["TEMPLATES", "templates"]
