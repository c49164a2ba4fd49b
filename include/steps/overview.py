"""The operators' page in the Airflow UI: what serves, what asks for attention, what was published, what served lists were worth."""

from datetime import UTC, date, datetime
from typing import Any

from markupsafe import Markup

from include.settings import Settings
from include.steps.doctor import doctor
from include.steps.templates import rendered
from include.stores import lake, list_quality, pages, publications
from include.stores.list_quality import POPULARITIES, PRODUCT

PUBLICATIONS = 30
SWITCHES = 10
REPORTS = 20
DAYS = 28


@lake.attached_once
def overview(settings: Settings) -> str:
    """The page as HTML. Its links are relative to where plugins/tidemark_pages.py serves it.

    It changes nothing, and costs what `doctor` does: a look at every landed file's size and time, and a pass over the interactions.
    """
    serving = publications.serving_id(settings)
    every = [name for name in pages.names(settings) if not name.startswith(pages.PUBLICATIONS)]
    return rendered(
        "overview.html.jinja",
        now=datetime.now(UTC),
        home=settings.home,
        doctor=doctor(settings),
        serving=None if serving is None else publications.manifest(settings, serving),
        pinned=publications.pinned(settings),
        publications=publications.listed(settings, PUBLICATIONS)[::-1],
        switches=publications.changes(settings)[: -SWITCHES - 1 : -1],
        quality=_quality(settings),
        reports=every[:REPORTS],
    )


def _quality(settings: Settings) -> dict[str, dict[str, Any]]:
    """For each surface its scored days, with NDCG of the lists and of the better recent popularity, and a plot of both."""
    scored = list_quality.by_day(list_quality.read(settings, list_quality.QUALITY, DAYS).to_pylist())
    rows = {surface: _rows(days) for surface, days in scored.items()}
    return {surface: {"days": found, "plot": _plot(found)} for surface, found in rows.items()}


def _rows(days: dict[date, dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {
            "day": day,
            "pairs": found[PRODUCT]["pairs"],
            "lists": found[PRODUCT]["ndcg"],
            "popularity": max((found[name] for name in POPULARITIES), key=lambda row: row["ndcg"]),
        }
        for day, found in sorted(days.items())
    ]


def _plot(rows: list[dict[str, Any]]) -> Markup:
    from include.steps.plots import lines  # only where there is something to draw

    series = {PRODUCT: [row["lists"] for row in rows], "popularity": [row["popularity"]["ndcg"] for row in rows]}
    return lines(series, [str(row["day"]) for row in rows])
