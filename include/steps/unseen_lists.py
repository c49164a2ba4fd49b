"""Lists of users without a history: what is popular in their segment, made once for each segment."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from include.columns import DECIMALS, Reason
from include.models.candidates import shrunk
from include.models.scoring import Catalogue, standardised
from include.settings import Settings, Surface
from include.stores import behaviour, lake, popularity

NONE = ""
"""Stands for users who are in no segment."""


@dataclass(frozen=True)
class SegmentLists:
    """A list for each segment, best first, and the segment of each user."""

    positions: NDArray[np.int64]
    """(segments, length) items of the catalogue; -1 for none."""

    scores: NDArray[np.float64]
    parts: dict[str, NDArray[np.float64]]
    of: NDArray[np.int64]
    """(users,) the row of each user's segment."""


def segment_lists(
    settings: Settings,
    state: dict[str, Any],
    surface: Surface,
    catalogue: Catalogue,
    barred: NDArray[np.bool_],
    users: list[str],
) -> SegmentLists:
    """Recent popularity in the segments of some users, as of the lists' T; users in no segment get the overall one.

    Args:
        settings: all settings.
        state: a candidate or a publication.
        surface: whose policy holds.
        catalogue: the items as of the lists' T.
        barred: (n,) those that cannot be listed.
        users: ids of users without a history.
    """
    names, context = settings.cold_start.segment_by, state["lists"]
    with lake.connect(settings) as connection:
        segment_of = behaviour.segments_of_users(connection, state["lake_snapshot"], users, names)
        popular = {NONE: catalogue.popularity}
        if segment_of:
            moment = (context["lake_snapshot"], datetime.fromisoformat(context["as_of"]))
            half_life = surface.popularity_half_life_days
            of_all = popularity.counts(settings, connection, *moment, half_life)
            overall = np.array([of_all.get(item, 0.0) for item in catalogue.item_ids])
            counts = popularity.segment_counts(settings, connection, *moment, half_life, names)
            place = {item: position for position, item in enumerate(catalogue.item_ids)}
            for segment in sorted(set(segment_of.values())):
                own = np.zeros(len(overall))
                mine = counts.filter(pc.equal(counts["segment"], segment))
                for item, count in zip(mine["item_id"].to_pylist(), mine["count"].to_pylist(), strict=True):
                    if item in place:
                        own[place[item]] = count
                as_if = shrunk(own, overall, settings.cold_start.segment_evidence)
                popular[segment] = standardised(np.log1p(as_if)).astype(np.float32)
    segments = sorted({segment_of.get(user, NONE) for user in users})
    row = {segment: number for number, segment in enumerate(segments)}
    eligible = np.flatnonzero(~barred)
    shape = (len(segments), surface.length)
    positions, scores = np.full(shape, -1, dtype=np.int64), np.zeros(shape)
    parts = {"popularity": np.zeros(shape), **({Reason.SEGMENT: np.zeros(shape)} if names else {})}
    for number, segment in enumerate(segments):
        of_everyone = surface.popularity * catalogue.popularity[eligible].astype(np.float64)
        of_segment = surface.popularity * popular[segment][eligible].astype(np.float64)
        score = np.round(of_segment, DECIMALS)
        best = np.lexsort((eligible, -score))[: surface.length]
        positions[number, : len(best)], scores[number, : len(best)] = eligible[best], score[best]
        parts["popularity"][number, : len(best)] = of_everyone[best]
        if names:
            parts[Reason.SEGMENT][number, : len(best)] = (of_segment - of_everyone)[best]
    return SegmentLists(
        positions, scores, parts, np.array([row[segment_of.get(user, NONE)] for user in users], dtype=np.int64)
    )
