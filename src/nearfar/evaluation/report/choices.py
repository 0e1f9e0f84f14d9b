"""The gallery of wrong choices: pictures with the true caption and the false one that the model preferred."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from nearfar.errors import UserError
from nearfar.evaluation.report.gallery import thumbnail
from nearfar.evaluation.result import Result


def choices(results: Mapping[str, Result], source: Any) -> str:
    """The failures of each task of the protocol `compositionality`; "" where there are none. Pictures come from the
    files that the failures name, or by their row from `source`."""
    if "compositionality" not in results:
        return ""
    tasks = results["compositionality"].details.get("failures", {})
    return "".join(
        f"<h3>{escape(task.replace('_', ' '))}</h3>\n{''.join(_choice(failure, source) for failure in failures)}"
        for task, failures in tasks.items()
        if failures
    )


def _choice(failure: Mapping[str, Any], source: Any) -> str:
    said = f"chosen: {failure['chosen']}; true: {failure['true']}"
    return (
        f'<div class="query"><div><q>{escape(failure["true"])}</q>'
        f'<span class="rank">✗ chosen: {escape(failure["chosen"])}</span>'
        f'<span class="rank">{escape(failure["group"])}</span></div>'
        f'<ul class="hits"><li><img src="{_picture(failure, source)}" alt="{escape(said)}"></li></ul></div>\n'
    )


def _picture(failure: Mapping[str, Any], source: Any) -> str:
    try:
        if "path" in failure:
            return thumbnail(failure["path"], failure.get("box"))
        if "row" in failure and hasattr(source, "__getitem__"):
            return thumbnail(source[failure["row"]]["image"])
    except (UserError, OSError):
        pass  # gone since it was measured; its captions still stand there
    return "data:,"
