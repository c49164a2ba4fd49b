"""A challenger's way to serving: its shadow publication is compared with what serves, then approved or rejected.

`plan_challenger` begins it, and the steps of every publication make the shadow. A line is a challenger whatever it changes:
nothing here asks for an encoder.
"""

import json
import logging
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from pydantic import ValidationError

from include.columns import VectorTable
from include.errors import BadInput
from include.readable import readable
from include.settings import Encoder, Settings
from include.steps.chain import STEPS
from include.steps.compare import TOP, as_text, compare
from include.steps.plan import plan_catching_up
from include.steps.publish import Overtaken, publish
from include.steps.report import render_page
from include.stores import behaviour, files, lake, publications, vectors
from include.stores.lock import writing

log = logging.getLogger(__name__)

Manifest = publications.Manifest


def encoder_settings(**options: Any) -> Encoder:
    """The settings of an encoder by name; what is None or empty keeps its default. A folder is named from the root on.

    Raises:
        BadInput: the source is empty, or a setting is unusable.
    """
    if options.get("source") == "":  # a form that says nothing, not one that asks for the default
        raise BadInput("encoder source: name it, as a folder or as TIDEMARK_ENCODER__SOURCE would")
    given = {name: value for name, value in options.items() if value not in (None, "")}
    try:
        found = Encoder(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"encoder {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    folder = Path(found.source).expanduser()
    return found.model_copy(update={"source": str(folder.resolve())}) if folder.is_dir() else found


def named_encoder(text: str) -> Encoder:
    """The settings of an encoder as a person names it: its source, or a JSON object of settings.

    Raises:
        BadInput: it is neither, or a setting is unknown or unusable.
    """
    if not text.lstrip().startswith("{"):
        return encoder_settings(source=text)
    try:
        return encoder_settings(**json.loads(text))
    except json.JSONDecodeError as error:
        raise BadInput(f"encoder {readable(text, 200)}: no JSON object: {error}") from error


def challenger(settings: Settings, publication: str) -> Manifest:
    """The manifest of a challenger's publication.

    Raises:
        BadInput: there is no such publication, or it challenges nothing.
    """
    entry = publications.manifest(settings, publication)
    if "challenger" not in entry:
        raise BadInput(
            f"publication {publication} challenges nothing: `python -m include publications list` names shadows"
        )
    return entry


def compare_challenger(settings: Settings, publication: str) -> dict[str, Any]:
    """Compare a shadow publication with the one that it challenges, of the same T and snapshot, and write its page.

    Returns:
        `champion`, `challenger`, `reason`, `facts` (`[what, of the champion, of the challenger]`), `page`, and the whole
        comparison (see `compare`) as `text`.
    """
    entry = challenger(settings, publication)
    champion = publications.manifest(settings, entry["challenger"]["champion"])
    found = compare(settings, champion["id"], entry["id"])
    content = {
        "champion": champion["id"],
        "challenger": entry["id"],
        "reason": entry["challenger"]["reason"],
        "facts": _facts(settings, champion, entry, found),
        "text": as_text(found),
    }
    page = render_page(settings, entry["id"], "challenger.html.jinja", **content)
    for line in content["text"].splitlines():
        log.info("%s", line)
    return {**content, "page": str(page)}


def _facts(settings: Settings, champion: Manifest, entry: Manifest, found: dict[str, Any]) -> list[list[str]]:
    pair = (champion, entry)
    seconds, texts = entry["run"]["seconds"], entry["run"]["texts"]
    gates = [f"{sum(gate['passed'] for gate in each['gates'])} of {len(each['gates'])} passed" for each in pair]
    sizes = [files.size(vectors.folder(settings, each["encoder_id"])) for each in pair]
    facts = [
        ["encoder", *(each["encoder_id"] for each in pair)],
        ["as of", *(each["as_of"] for each in pair)],
        ["gates", *gates],
        ["texts embedded", "", f"{texts['embedded']:,} in {seconds.get('embed_texts', 0.0):,.1f} s"],
        ["seconds in all", "", f"{sum(seconds.values()):,.1f}"],
        ["vector tables on disk", *(f"{size / 1e6:,.1f} MB" for size in sizes)],
    ]
    moved = found["users"].get("moved")
    facts.append(["users whose interests moved", "", "not comparable" if moved is None else f"{moved:,}"])
    for surface, lists in found["lists"].items():
        if "refused" in lists:
            facts.append([surface, "", lists["refused"]])
            continue
        name, items = VectorTable.recommendations(surface), lists["items"]
        facts += [
            [f"{surface}: users with a list", *(f"{_rows(settings, each, name):,}" for each in pair)],
            [
                f"{surface}: top-{TOP} lists changed",
                "",
                f"{lists['changed']:,}, which kept {lists['kept']:.0%} of their items",
            ],
            [f"{surface}: items in some top {TOP}", "", f"{items['entered']:,} entered, {items['left']:,} left"],
            [f"{surface}: available items in some list", *(f"{_coverage(settings, each, name):.1%}" for each in pair)],
        ]
    return facts


def _rows(settings: Settings, entry: Manifest, name: str) -> int:
    parts = vectors.batches(settings, entry["encoder_id"], name, entry["tables"][name]["version"], ["user_id"])
    return sum(part.num_rows for part in parts)


def _coverage(settings: Settings, entry: Manifest, name: str) -> float:
    """The share of the available items that are in somebody's list."""
    listed: set[str] = set()
    for part in vectors.batches(settings, entry["encoder_id"], name, entry["tables"][name]["version"], ["items"]):
        listed |= set(pc.unique(part["items"].flatten()).to_pylist())
    with lake.connect(settings) as connection:
        as_of = datetime.fromisoformat(entry["as_of"])
        available = behaviour.available_items(connection, entry["lake_snapshot"], as_of)
    return len(listed & available) / max(len(available), 1)


def as_markdown(found: dict[str, Any]) -> str:
    """A comparison as Airflow shows it to who decides. What came from outside stands in a block of text, where nothing acts."""
    quoted = "\n".join(f"    {line}" for line in [readable(found["reason"]), "", *found["text"].splitlines()])
    rows = "\n".join(f"| {' | '.join(row)} |" for row in found["facts"])
    return f"""\
`{found["challenger"]}` challenges `{found["champion"]}`. **Approve**: it is brought up to the newest gated snapshot and serves.
**Reject**: nothing changes.

| | serves | challenger |
|---|---|---|
{rows}

{quoted}

The page: `{found["page"]}`
"""


def facts_as_text(found: dict[str, Any]) -> str:
    """The facts of a comparison for a terminal."""
    return "\n".join(f"{what}: " + " → ".join(filter(None, values)) for what, *values in found["facts"])


def approve(settings: Settings, publication: str, by: str, reason: str = "") -> dict[str, Any]:
    """Let a challenger serve: bring its line up to the present, so that serving never goes back, then switch in one step.

    Runs again after it was killed, it goes on; after the switch, it does nothing.

    Args:
        settings: all settings.
        publication: a shadow.
        by: who approves.
        reason: why, for the record.

    Returns:
        `publication`, which serves, `from`, which did, and `why`.

    Raises:
        BadInput: it is no challenger, it served already, or serving is pinned.
        GateFailed: the line could not be brought up to the present. Nothing was switched.
    """
    entry = challenger(settings, publication)
    line = str(entry["line"])
    while publications.serving_line(settings) != line:
        _refuse_to_switch(settings, line)
        plan = plan_catching_up(settings, line)
        log.info("%s", plan["reason"])
        if plan["candidate"] is not None:
            for step in STEPS:
                step(settings, plan["candidate"])
            with suppress(Overtaken):  # somebody else brought the line up
                publish(settings, plan["candidate"], serve=False)
        with writing(settings) as confirm:
            _refuse_to_switch(settings, line)
            newest, serving = publications.newest_of(settings, line), publications.serving(settings)
            assert newest is not None
            if publications.knows(newest) < publications.knows(serving):
                continue  # a run published meanwhile
            confirm()
            rejected = publications.rejection(settings, line) is not None
            said = f"{publication} approved by {by}{', though it was rejected before' if rejected else ''}"
            why = publications.because(said, reason)
            change = publications.serve(settings, newest["id"], why, pin=False)
        log.info("%s serves in place of %s: %s", change["to"], change["from"], why)
    switch = next(change for change in publications.changes(settings) if change.get("line") == line)
    return {"publication": switch["to"], "serving": True, "from": switch["from"], "why": switch["why"]}


def _refuse_to_switch(settings: Settings, line: str) -> None:
    if publications.served(settings, line):
        raise BadInput(
            f"the challenger {line} served already: `python -m include publications rollback ID` goes back to it"
        )
    if publications.pinned(settings):
        raise BadInput(
            f"serving is pinned to {publications.serving_id(settings)} since a rollback: "
            "`python -m include publications unpin` first, then approve again"
        )


def decision(settings: Settings, publication: str) -> dict[str, bool]:
    """Whether a challenger was `approved` or `rejected`, whoever decided it."""
    line = str(challenger(settings, publication)["line"])
    return {
        "approved": publications.served(settings, line),
        "rejected": publications.rejection(settings, line) is not None,
    }


def reject(settings: Settings, publication: str, by: str, reason: str = "") -> dict[str, Any]:
    """Record that a challenger is not to serve; retention then treats its publications as any other.

    What was rejected before stays as it was recorded.

    Raises:
        BadInput: it is no challenger, or it served already.
    """
    entry = challenger(settings, publication)
    with writing(settings):
        # First: what was rejected may have been approved since, and to reject it once more would only seem to end that.
        if publications.served(settings, str(entry["line"])):
            raise BadInput(
                f"publication {publication} was approved: `python -m include publications rollback` undoes that"
            )
        before = publications.rejection(settings, str(entry["line"]))
        if before is not None:
            log.info("it was rejected already, at %s: %s", before["at"], before["why"])
            return before
        why = publications.because(f"{publication} rejected by {by}", reason)
        record = publications.reject(settings, str(entry["line"]), why)
    log.info("%s", why)
    return record
