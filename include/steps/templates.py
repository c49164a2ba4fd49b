"""Pages as HTML, made of the templates beside this file; light to import, since the API server makes some."""

import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from include.readable import readable

LONGEST = 80  # characters of an id
COMMAND = re.compile("`([^`]+)`")
RUNBOOK = re.compile(r"docs/runbooks/([a-z0-9_]+)\.md")


def rendered(template: str, **content: Any) -> str:
    """A page as HTML; whatever it shows is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["readable"] = lambda value: readable(str(value), LONGEST)
    environment.filters["commas"] = lambda value: f"{value:,}"
    environment.filters["moment"] = lambda value: str(value)[:16].replace("T", " ")
    environment.filters["advice"] = _advice
    environment.filters["number"] = lambda value, digits=4: "-" if value is None else f"{value:.{digits}f}"
    return environment.get_template(template).render(**content)


def _advice(line: str) -> Markup:
    """A line of `doctor` as HTML: commands as code, a runbook as a link to where the pages of the Airflow UI have it."""
    html = COMMAND.sub(r"<code>\1</code>", str(escape(line)))
    return Markup(RUNBOOK.sub(r'<a href="runbooks/\1">\1</a>', html))  # noqa: S704 # escaped before
