"""HTML pages from templates (jinja2), which escape every value: what the data says stays text, whatever it says."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def render(package: str, template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        package: the package whose folder `templates/` holds it, such as `nearfar.evaluation.report`.
        template: its file name.
        values: what it shows. Strings are escaped, those of `markupsafe.Markup` excepted: only drawings are.

    Raises:
        jinja2.UndefinedError: the template uses a name that is not among the values.
        jinja2.TemplateNotFound: there is no such file.
    """
    return _environment(package).get_template(template).render(values)


@cache
def _environment(package: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
