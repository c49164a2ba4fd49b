"""Which texts a candidate needs, and which of them no run embedded before."""

import logging
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from include.models.texts import item_texts, text_hash
from include.settings import Settings
from include.steps.embed_texts import KINDS
from include.stores import behaviour, parts, publications, vectors
from include.stores.lock import writing

log = logging.getLogger(__name__)


def plan_texts(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    state: dict[str, Any],
    users: list[str],
    items: list[str],
) -> tuple[pa.Table, int]:
    """The item and user texts to embed, those of like length together, in an order that repeats.

    Args:
        settings: all settings.
        connection: the lake.
        state: the candidate's plan.
        users: the touched users; not looked at where everything is computed anew.
        items: likewise.

    Returns:
        `text_hash, text, kind`, and how many distinct texts have a vector already.
    """
    item_texts = _item_texts(settings, connection, state, items)
    user_texts = _user_texts(settings, connection, state, users)
    wanted = {"item": item_texts, "user": {name: text for name, text in user_texts.items() if name not in item_texts}}
    known = _known(settings, state["encoder_id"]) if any(wanted.values()) else set()
    rows = [
        (name, texts[name], kind)
        for kind, texts in wanted.items()
        for name in sorted(texts.keys() - known, key=lambda name, texts=texts: (len(texts[name]), name))  # type: ignore[misc]
    ]
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    planned = pa.table(
        {
            name: pa.array(column, pa.string())
            for name, column in zip(("text_hash", "text", "kind"), columns, strict=True)
        }
    )
    return planned, sum(map(len, wanted.values())) - len(rows)


def _known(settings: Settings, encoder_id: str) -> set[str]:
    """Hashes of the texts that have a vector, with what runs embedded that ended before they kept it."""
    known = vectors.known_texts(settings, encoder_id)
    for candidate, _, _ in publications.candidates(settings):
        for step in KINDS.values():
            for rows in parts.left_behind(settings, candidate, step, {"encoder": encoder_id}):
                new = rows.filter(pc.invert(pc.is_in(rows["text_hash"], pa.array(sorted(known), pa.string()))))
                if new.num_rows == 0:
                    continue
                hashes = new["text_hash"].to_pylist()
                log.info("keeping %d texts that candidate %s had embedded", len(hashes), candidate)
                with writing(settings.beside(None)):
                    vectors.keep_texts(settings, encoder_id, hashes, vectors.vector_array(new["vector"]))
                known |= set(hashes)
    return known


def _item_texts(
    settings: Settings, connection: duckdb.DuckDBPyConnection, state: dict[str, Any], touched: list[str]
) -> dict[str, str]:
    """Item texts by hash: of the touched items, or of all, also as of the lists' own T where that differs."""
    if not (state["full"] or touched):
        return {}
    moments = {(state["lake_snapshot"], state["as_of"])}
    if state["full"]:
        moments.add((state["lists"]["lake_snapshot"], state["lists"]["as_of"]))
    texts: dict[str, str] = {}
    for snapshot, as_of in sorted(moments):
        found = behaviour.items(connection, snapshot, datetime.fromisoformat(as_of), None if state["full"] else touched)
        texts |= {text_hash(settings.encoder.item_prefix + text): text for text in item_texts(found) if text}
    return texts


def _user_texts(
    settings: Settings, connection: duckdb.DuckDBPyConnection, state: dict[str, Any], touched: list[str]
) -> dict[str, str]:
    as_of = datetime.fromisoformat(state["as_of"])
    users = behaviour.users(connection, state["lake_snapshot"], as_of) if state["full"] else touched
    wrote = behaviour.user_texts(connection, state["lake_snapshot"], as_of, users)
    return {text_hash(settings.encoder.user_prefix + text): text for text in wrote.text}
