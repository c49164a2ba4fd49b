"""Embed the texts that a candidate needs and that no run embedded before."""

import logging
from datetime import datetime
from typing import Any

import numpy as np

from include.models.encoder import TextEncoder
from include.models.texts import item_text, text_hash
from include.settings import Settings
from include.steps.timing import timed
from include.stores import behaviour, lake, publications, vectors
from include.stores.lock import writing

log = logging.getLogger(__name__)

TEXTS_PER_WRITE = 4096


def embed_texts(settings: Settings, candidate: str) -> dict[str, Any]:
    """Embed item and user texts that have no vector of this encoder yet, and keep them.

    What a killed run embedded before it died is kept, so a retry goes on from there.

    Returns:
        `embedded` and `reused`: numbers of distinct texts.
    """
    state = publications.candidate(settings, candidate)
    touched = publications.touched(settings, candidate)
    encoder_id = state["encoder_id"]
    with timed(settings, candidate, "embed_texts"):
        wanted = _item_texts(settings, state, touched["items"]), _user_texts(settings, state, touched["users"])
        known = vectors.known_texts(settings, encoder_id)
        total = sum(len(texts) for texts in wanted)
        missing = [{name: text for name, text in texts.items() if name not in known} for texts in wanted]
        count = sum(len(texts) for texts in missing)
        if count:
            model = TextEncoder(settings.encoder)
            prefixes = (settings.encoder.item_prefix, settings.encoder.user_prefix)
            done = 0
            for texts, prefix in zip(missing, prefixes, strict=True):
                # Long and short texts together make batches of even work; the order is fixed so that runs repeat.
                names = sorted(texts, key=lambda name, texts=texts: (len(texts[name]), name))  # type: ignore[misc]
                for start in range(0, len(names), TEXTS_PER_WRITE):
                    part = names[start : start + TEXTS_PER_WRITE]
                    embedded = model.encode([texts[name] for name in part], prefix=prefix)
                    with writing(settings):
                        vectors.keep_texts(settings, encoder_id, part, np.asarray(embedded, dtype=np.float32))
                    done += len(part)
                    log.info("embedded %d of %d texts", done, count)
        summary = {"embedded": count, "reused": total - count}
    publications.extend_candidate(settings, candidate, {"run": {"texts": summary}})
    return summary


def _item_texts(settings: Settings, state: dict[str, Any], touched: list[str]) -> dict[str, str]:
    """Item texts by hash: of the touched items, or of all, also as of the lists' own T where that differs."""
    moments = {(state["lake_snapshot"], state["as_of"])}
    if state["full"]:
        moments.add((state["lists"]["lake_snapshot"], state["lists"]["as_of"]))
    texts = {}
    with lake.connect(settings) as connection:
        for snapshot, as_of in sorted(moments):
            found = behaviour.items(
                connection, snapshot, datetime.fromisoformat(as_of), None if state["full"] else touched
            )
            for title, categories, description in zip(
                found["title"].to_pylist(),
                found["categories"].to_pylist(),
                found["description"].to_pylist(),
                strict=True,
            ):
                text = item_text(title, categories, description)
                if text:
                    texts[text_hash(settings.encoder.item_prefix + text)] = text
    return texts


def _user_texts(settings: Settings, state: dict[str, Any], touched: list[str]) -> dict[str, str]:
    with lake.connect(settings) as connection:
        as_of = datetime.fromisoformat(state["as_of"])
        users = behaviour.users(connection, state["lake_snapshot"], as_of) if state["full"] else touched
        wrote = behaviour.user_texts(connection, state["lake_snapshot"], as_of, users)
    return {text_hash(settings.encoder.user_prefix + text): text for text in wrote.text}
