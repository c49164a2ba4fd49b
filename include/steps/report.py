"""What an update changed: rows, users, items, how far interests moved, how many lists are others."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from include.columns import USER_VECTORS
from include.models.comparison import QUANTILES
from include.readable import readable
from include.settings import Settings
from include.steps.compare import TOP, lists_changed, users_moved
from include.steps.templates import LONGEST, rendered
from include.stores import pages, publications

NAMED = 20  # ids of touched users and items that a report names
MOST = 10  # users that moved most


def change_report(settings: Settings, state: dict[str, Any], touched: dict[str, list[str]]) -> dict[str, Any] | None:
    """Compare a candidate with the publication it builds on; reads only what it wrote anew.

    Args:
        settings: all settings.
        state: a candidate with all its tables.
        touched: ids of its touched users and items.

    Returns:
        `since` (the base's id), `rows` (`{mart: {added, changed, removed}}`), `users` and `items` (`{touched, ids}`),
        `moved` (see `compare.users_moved`), `lists` (see `compare.lists_changed`). None where everything was computed anew.
    """
    if state["full"]:
        return None
    base = publications.manifest(settings, state["base"])
    return {
        "since": base["id"],
        "rows": state["changed_rows"],
        **{kind: {"touched": len(touched[kind]), "ids": touched[kind][:NAMED]} for kind in ("users", "items")},
        "moved": users_moved(settings, base, state, MOST),
        "lists": lists_changed(settings, base, state),
    }


def report_lines(report: dict[str, Any]) -> Iterator[str]:
    """A report as people read it, a line at a time; the same of a manifest, whose names were sorted."""
    yield f"changed since publication {report['since']}:"
    rows = [
        f"{mart} " + ", ".join(f"{counts[what]:,} {what}" for what in ("added", "changed", "removed") if counts[what])
        for mart, counts in sorted(report["rows"].items())
        if any(counts.values())
    ]
    yield "  rows: " + ("; ".join(rows) or "none")
    for kind in ("users", "items"):
        ids, n = report[kind]["ids"], report[kind]["touched"]
        named = ", ".join(readable(name, LONGEST) for name in ids) + (" …" if n > len(ids) else "")
        yield f"  {kind} touched: {n:,}" + (f" ({named})" if ids else "")
    moved = report["moved"]
    yield f"  interests: {moved['moved']:,} users moved, {moved['came']:,} came, {moved['went']:,} went"
    names = [name for name in USER_VECTORS if moved["quantiles"].get(name)]
    for name in names:
        found = moved["quantiles"][name]
        yield f"    {name} (1 - cosine): " + ", ".join(f"{what} {found[what]:.6f}" for what in QUANTILES)
    for row in moved["most"]:
        parts = ", ".join(f"{name} {row[name]:.6f}" for name in names)
        yield f"    {readable(row['user_id'], LONGEST)}: {parts}"
    for surface, lists in report["lists"].items():
        yield f"  {surface}: {lists['changed']:,} top-{TOP} lists changed, {lists['came']:,} came, {lists['went']:,} went"


def write_page(settings: Settings, manifest: publications.Manifest) -> Path:
    """Write the page of an update's publication; returns where it is."""
    return pages.write(settings, manifest["id"], publication_page(manifest, data_docs="../data_docs/index.html"))


def publication_page(manifest: publications.Manifest, *, data_docs: str | None = None) -> str:
    """A publication's manifest as HTML, with what it changed where it builds on another one.

    Args:
        data_docs: the address of the Data Docs, where they can be opened from.
    """
    report = manifest["run"].get("report")
    return rendered("report.html.jinja", manifest=manifest, report=report, top=TOP, data_docs=data_docs)


def render_page(settings: Settings, publication: str, template: str, **content: Any) -> Path:
    """Write a page about a publication, beside the Data Docs that hold its gates; returns where it is."""
    return pages.write(settings, publication, rendered(template, **content))
