"""Airflow plugin: a "Runbook" link on every task of ours, and the runbooks themselves as pages behind the login."""

import html
import re
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from markdown_it import MarkdownIt

RUNBOOKS = Path(__file__).resolve().parent.parent / "docs" / "runbooks"
PREFIX = "/tidemark/runbooks"
NAME = re.compile(r"[a-z0-9_]+")
STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #1f2430; }
pre { background: #f3f5f8; padding: .8rem; overflow-x: auto; border-radius: 6px; }
code { background: #f3f5f8; padding: .1rem .25rem; border-radius: 4px; } pre code { padding: 0; }
@media (prefers-color-scheme: dark) { body { background: #14171d; color: #e4e7ec; } pre, code { background: #232833; } a { color: #8ab4ff; } }
"""


def names() -> list[str]:
    """The runbooks that exist, by file stem."""
    return sorted(file.stem for file in RUNBOOKS.glob("*.md") if NAME.fullmatch(file.stem))


def page(title: str, body: str) -> HTMLResponse:
    """An HTML page that may load nothing and run nothing. `body` is HTML already escaped."""
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><body>{body}</body></html>"
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HTMLResponse(text, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})


app = FastAPI(
    title="Tidemark runbooks",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_view(AccessView.PLUGINS))],
)


@app.get("/")
def index() -> HTMLResponse:
    """All runbooks."""
    links = "".join(f'<li><a href="{url(name)}">{html.escape(name.replace("_", " "))}</a></li>' for name in names())
    return page("Runbooks", f"<h1>Runbooks</h1><ul>{links}</ul>")


@app.get("/{name:path}")
def show(name: str) -> HTMLResponse:
    """One runbook. Anything but the stem of a file in docs/runbooks is not found."""
    if name not in names():
        raise HTTPException(404, "no such runbook")
    body = rendered((RUNBOOKS / f"{name}.md").read_text("utf-8"))
    return page(name.replace("_", " "), f'<p><a href="{url("")}">All runbooks</a></p>{body}')


def rendered(text: str) -> str:
    """Markdown as HTML. Links lead to other runbooks; of what is not served here only the words are left."""
    # html=False: HTML inside a runbook is shown as text, not obeyed.
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(text)
    served = False
    for token in [inner for block in tokens for inner in block.children or ()]:
        if token.type == "link_open":
            name = str(token.attrs["href"]).removesuffix(".md")
            served = name in names()
            token.attrs["href"] = url(name)
        if token.type in ("link_open", "link_close"):
            token.hidden = not served
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def url(name: str) -> str:
    """Where a runbook is served, below whatever path Airflow itself is served at."""
    return f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}{PREFIX}/{name}"


class RunbookLink(BaseOperatorLink):  # type: ignore[misc] # Airflow is not followed by mypy
    """The button beside a task's log."""

    name = "Runbook"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the task's runbook; nothing for tasks of other DAGs."""
        # Imported here: Airflow's DAG processor loads plugins first, and would hold on to an old version of it.
        from include.dag_defaults import Tag, runbook

        dag = getattr(operator, "dag", None)
        return url(runbook(ti_key.task_id)) if dag is not None and Tag.TIDEMARK in dag.tags else ""


class TidemarkRunbooks(AirflowPlugin):  # type: ignore[misc]
    """Registers the link and the pages."""

    name = "tidemark_runbooks"
    global_operator_extra_links: ClassVar[list[Any]] = [RunbookLink()]
    fastapi_apps: ClassVar[list[Any]] = [{"app": app, "url_prefix": PREFIX, "name": "Tidemark runbooks"}]
