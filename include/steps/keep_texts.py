"""Join the shards of `embed_texts`: their vectors are kept for this and every later run."""

from typing import Any

from include.settings import Settings
from include.steps.embed_texts import KINDS, STEP, planned_texts, text_inputs
from include.steps.timing import note_seconds, timed
from include.stores import parts, publications, vectors
from include.stores.lock import writing


def keep_texts(settings: Settings, candidate: str) -> dict[str, Any]:
    """Keep the vectors of the planned texts. Done already, it does nothing.

    Returns:
        `kept`: the number of texts.

    Raises:
        TidemarkError: a shard's part is missing or is not what was planned.
    """
    state = publications.planned(settings, candidate)
    planned = [part for part, _, _ in planned_texts(settings, candidate, state)]
    wanted = {name for part in planned for name in part.keys}
    if wanted <= vectors.known_texts(settings, state["encoder_id"]):
        return {"kept": 0}
    seconds = 0.0
    with timed(settings, candidate, "keep_texts"):
        for part, rows, took in parts.read(settings, candidate, planned, text_inputs(state)):
            with writing(settings.beside(None)):
                found = vectors.vector_array(rows["vector"])
                vectors.keep_texts(settings, state["encoder_id"], list(part.keys), found)
            seconds += took
    note_seconds(settings, candidate, STEP, seconds)
    for step in KINDS.values():
        parts.forget(settings, candidate, step)
    return {"kept": len(wanted)}
