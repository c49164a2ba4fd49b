"""Airflow plugin: the operators' page in the navigation, reports and runbooks behind the login, and links on tasks to both."""

import re
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, ClassVar
from urllib.parse import quote, urlsplit

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
from airflow.api_fastapi.core_api.security import requires_access_view
from airflow.models.xcom import XCOM_RETURN_KEY, XComModel
from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
from airflow.sdk.configuration import conf
from airflow.utils.session import create_session
from fastapi import Depends, FastAPI, Form, HTTPException
from fastapi.responses import HTMLResponse, RedirectResponse
from markdown_it import MarkdownIt
from markupsafe import Markup

# What is of `include` is imported where it is used: Airflow's DAG processor loads plugins first, and would hold on to an old
# version of it.

RUNBOOKS = Path(__file__).resolve().parent.parent / "docs" / "runbooks"
PREFIX = "/tidemark"
NAME = re.compile(r"[a-z0-9_]+")


def names() -> list[str]:
    """The runbooks that exist, by file stem."""
    return sorted(file.stem for file in RUNBOOKS.glob("*.md") if NAME.fullmatch(file.stem))


def answer(html: str, status: int = 200) -> HTMLResponse:
    """An HTML page that may load nothing and run nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(html, status, headers=headers)


def page(title: str, body: Markup, status: int = 200) -> HTMLResponse:
    """A page of the same looks as the reports."""
    from include.steps.templates import rendered

    return answer(rendered("page.html.jinja", title=title, body=body), status)


app = FastAPI(
    title="Tidemark",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(requires_access_view(AccessView.PLUGINS))],
)

_one_at_a_time = Lock()  # looks of many people at once cost the API server no more than one


def of_the_home(make: Callable[..., str], *arguments: str | None) -> HTMLResponse:
    """A page about the home of the settings; what is wrong with either is said on the page instead."""
    from include.errors import TidemarkError
    from include.settings import load
    from include.steps.migrate import opened

    try:
        with _one_at_a_time:
            return answer(make(opened(load()), *arguments))
    except TidemarkError as error:
        return page("Tidemark", Markup("<h1>Tidemark</h1><p>{}</p>").format(str(error)), 404 if arguments else 503)


@app.get("/")
def overview() -> HTMLResponse:
    """The operators' page."""
    from include.steps.overview import overview as make

    return of_the_home(make)


@app.get("/publications/{name}")
def publication(name: str) -> HTMLResponse:
    """One publication."""
    from include.steps.report import publication_page
    from include.stores import publications

    return of_the_home(lambda settings, name: publication_page(publications.manifest(settings, name)), name)


@app.post("/users/")
def user(name: Annotated[str, Form(alias="id")], publication: Annotated[str | None, Form()] = None) -> HTMLResponse:
    """One user, as of a publication or of what serves. Asked for in a form: servers and browsers write addresses down."""
    from include.steps.look_up import user_page

    return of_the_home(user_page, name, publication)


@app.post("/items/")
def item(name: Annotated[str, Form(alias="id")], publication: Annotated[str | None, Form()] = None) -> HTMLResponse:
    """One item, likewise."""
    from include.steps.look_up import item_page

    return of_the_home(item_page, name, publication)


@app.get("/users/")
@app.get("/items/")
def ask() -> RedirectResponse:
    """Where nothing is named: the page with the form."""
    return RedirectResponse("../")


@app.get("/reports/{name:path}")
def report(name: str) -> HTMLResponse:
    """One page of the home's reports, as it was written."""
    from include.stores import pages

    return of_the_home(pages.read, name)


@app.get("/runbooks/")
def runbooks() -> HTMLResponse:
    """All runbooks."""
    links = Markup().join(
        Markup('<li><a href="{}">{}</a></li>').format(url(name), name.replace("_", " ")) for name in names()
    )
    return page("Runbooks", Markup("<h1>Runbooks</h1><ul>{}</ul>").format(links))


@app.get("/runbooks/{name:path}")
def runbook(name: str) -> HTMLResponse:
    """One runbook. Anything but the stem of a file in docs/runbooks is not found."""
    if name not in names():
        raise HTTPException(404, "no such runbook")
    body = as_html((RUNBOOKS / f"{name}.md").read_text("utf-8"))
    return page(name.replace("_", " "), Markup('<p><a href="{}">All runbooks</a></p>{}').format(url(""), body))


def as_html(text: str) -> Markup:
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
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))  # noqa: S704 # see html=False


def url(name: str) -> str:
    """Where a runbook is served, below whatever path Airflow itself is served at."""
    return f"{below()}{PREFIX}/runbooks/{name}"


def below() -> str:
    """The path that Airflow itself is served at."""
    return str(urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/"))


def is_ours(operator: Any) -> bool:
    """Whether a task is of a DAG of this project."""
    from include.dag_defaults import Tag

    dag = getattr(operator, "dag", None)
    return dag is not None and Tag.TIDEMARK in dag.tags


class RunbookLink(BaseOperatorLink):  # type: ignore[misc] # Airflow is not followed by mypy
    """The button beside a task's log."""

    name = "Runbook"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the task's runbook; nothing for tasks of other DAGs."""
        from include.dag_defaults import runbook

        return url(runbook(ti_key.task_id)) if is_ours(operator) else ""


class PublicationLink(BaseOperatorLink):  # type: ignore[misc]
    """The button beside the log of a task that published: what was made, and what that changed."""

    name = "Publication"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the page of the task's publication; nothing for tasks that made none."""
        if not is_ours(operator) or ti_key.task_id.rsplit(".", 1)[-1] != "publish":
            return ""
        returned = XComModel.get_many(
            run_id=ti_key.run_id, key=XCOM_RETURN_KEY, dag_ids=ti_key.dag_id, task_ids=ti_key.task_id
        )
        with create_session() as session:
            found = session.scalar(returned)
        summary = {} if found is None else XComModel.deserialize_value(found)
        return f"{below()}{PREFIX}/publications/{quote(summary['publication'])}" if "publication" in summary else ""


class TidemarkPages(AirflowPlugin):  # type: ignore[misc]
    """Registers the links and the pages."""

    name = "tidemark_pages"
    global_operator_extra_links: ClassVar[list[Any]] = [RunbookLink(), PublicationLink()]
    fastapi_apps: ClassVar[list[Any]] = [{"app": app, "url_prefix": PREFIX, "name": "Tidemark"}]
    external_views: ClassVar[list[Any]] = [
        {"name": "Tidemark", "href": f"{below()}{PREFIX}/", "url_route": "tidemark", "nav_top_level": True}
    ]
