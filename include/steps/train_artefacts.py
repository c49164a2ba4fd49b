"""Learn what a candidate lacks: the mean of the item text vectors, the item-to-item factors, and how lists are made."""

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from include.columns import Artefact
from include.models.interests import decayed_weights
from include.settings import Settings
from include.steps.item_texts import centred_text_vectors, item_text_vectors, mean_of_described
from include.steps.keep_texts import keep_texts
from include.steps.plan import matching
from include.steps.timing import timed
from include.stores import artefacts, behaviour, lake, publications

if TYPE_CHECKING:
    from include.steps.learn_lists import Past

log = logging.getLogger(__name__)


@lake.attached_once
def train_artefacts(settings: Settings, candidate: str) -> dict[str, Any]:
    """Keep the text vectors that shards made; train the artefacts that the plan found missing, from events before T.

    Returns:
        `kept`: how many texts; `trained` and `reused`: artefact ids.

    Raises:
        TidemarkError: a shard's part is missing or is not what was planned.
    """
    kept = keep_texts(settings, candidate)["kept"]
    state = publications.planned(settings, candidate)
    reused = list(state["artefacts"].values())
    trained: dict[str, str] = {}
    with timed(settings, candidate, "train_artefacts"):
        missing = [kind for kind in state["kinds"] if kind not in state["artefacts"]]
        past: Past | None = None
        for kind in missing:
            if kind == Artefact.TEXT_MEAN:
                trained[kind] = _train_text_mean(settings, state)
            elif kind == Artefact.ITEM_FACTORS:
                trained[kind] = _train_item_factors(settings, state)
            else:
                trained[kind], past = _learn(settings, state, kind, past)
            # What is learned next follows from it: text vectors are less their mean.
            state["artefacts"][kind] = trained[kind]
            log.info("trained %s", trained[kind])
    publications.extend_candidate(settings, candidate, {"artefacts": trained})
    return {"kept": kept, "trained": list(trained.values()), "reused": reused}


def _learn(settings: Settings, state: dict[str, Any], kind: str, past: "Past | None") -> "tuple[str, Past]":
    """Train what makes lists; returns the artefact's id and what it was learned from, for the next kind."""
    # An hour that trains nothing does not pay for the import.
    from threadpoolctl import threadpool_limits

    from include.steps.learn_lists import fit_sources, read_past, train_ranker

    description = _description(settings, state, kind, state["lists"])
    # Two threads of many small products are slower than one on a busy machine, and another result.
    with threadpool_limits(1):
        past = past or read_past(settings, state)
        if kind == Artefact.SOURCES:
            return fit_sources(settings, past, description), past
        return train_ranker(settings, past, description, repeats=kind == Artefact.ranker(repeats=True)), past


def _description(
    settings: Settings, state: dict[str, Any], kind: str, until: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What an artefact says of itself: it was trained up to the candidate's T, or that of its lists."""
    until = until or state
    with lake.connect(settings) as connection:
        first = behaviour.first_event(connection, until["lake_snapshot"])
    return {
        "lake_snapshot": until["lake_snapshot"],
        "trained_from": None if first is None else first.isoformat(),
        "trained_until": until["as_of"],
        **matching(settings, state["encoder_id"], state["lists"])[kind],
    }


def _train_text_mean(settings: Settings, state: dict[str, Any]) -> str:
    with lake.connect(settings) as connection:
        items = behaviour.items(connection, state["lake_snapshot"], datetime.fromisoformat(state["as_of"]))
    hashes, found = item_text_vectors(settings, state, items)
    described = sum(name is not None for name in hashes)
    description = {**_description(settings, state, Artefact.TEXT_MEAN), "items": described}
    return artefacts.write(settings, Artefact.TEXT_MEAN, {"mean": mean_of_described(hashes, found)}, description)


def _train_item_factors(settings: Settings, state: dict[str, Any]) -> str:
    from include.models.factors import expected_interactions, train_item_factors

    as_of, snapshot = datetime.fromisoformat(state["as_of"]), state["lake_snapshot"]
    with lake.connect(settings) as connection:
        users = behaviour.users(connection, snapshot, as_of)
        described = behaviour.items(connection, snapshot, as_of)
        began = behaviour.item_spans(connection, snapshot, as_of)["first_from"].to_numpy().astype("datetime64[us]")
        used = behaviour.popularity(connection, snapshot, as_of, half_life_days=settings.item_factors.half_life_days)
        row = {item: position for position, item in enumerate(described["item_id"].to_pylist())}
        by_use = sorted(used.keys() & row.keys(), key=lambda item: (-used[item], item))
        items = sorted(by_use[: settings.item_factors.max_items])
        done = behaviour.interactions(connection, snapshot, as_of, users, items)
    known = (done.item >= 0) & (done.weight > 0)
    last = np.full(len(users), np.datetime64(0, "us"))
    np.maximum.at(last, done.user, done.event_ts)
    # EASE learns from what was used together: a mark for each pair of user and item, however little it weighs.
    marks = decayed_weights(
        done.user[known],
        done.item[known],
        done.event_ts[known],
        np.ones(int(known.sum())),
        last,
        half_life_days=np.inf,
        shape=(len(users), len(items)),
    )
    marks.data[:] = 1.0
    left, right = train_item_factors(
        marks,
        dimensions=settings.item_factors.dimensions,
        regularisation=settings.item_factors.regularisation,
        seed=settings.seed,
    )
    had_by = np.bincount(marks.indices, minlength=len(items)).astype(np.float64)
    place = np.array([row[item] for item in items], dtype=np.int64)
    _, text = centred_text_vectors(settings, state, described.take(pa.array(place)))
    exposure = expected_interactions(began, done.event_ts[known], len(items))
    others = sorted(row.keys() - set(items))
    tensors: artefacts.Tensors = {
        "left": left,
        "right": right,
        "text": text,
        "had_by": had_by,
        "exposure": np.maximum(exposure[place], had_by),
        "exposure_of_others": exposure[[row[item] for item in others]],
    }
    description = {
        **_description(settings, state, Artefact.ITEM_FACTORS),
        "items": items,
        "others": others,
        "users": len(users),
    }
    return artefacts.write(settings, Artefact.ITEM_FACTORS, tensors, description)
