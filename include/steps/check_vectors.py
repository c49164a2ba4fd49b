"""The gate on a candidate's vectors."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from include.columns import USER_VECTORS, VectorTable, interest_columns
from include.models import encoder
from include.quality.vectors import check_vectors as check
from include.settings import Settings
from include.steps.tables import written_version
from include.steps.timing import timed
from include.stores import publications, vectors


def check_vectors(settings: Settings, candidate: str) -> dict[str, Any]:
    """Judge every vector of the candidate's tables: dimension, norm, keys, encoder and coverage.

    Raises:
        GateFailed: with the failing expectations, counts and examples. Nothing is published.
    """
    state = publications.planned(settings, candidate)
    encoder_id = state["encoder_id"]
    versions = {name: written_version(state, name) for name in (VectorTable.ITEMS, VectorTable.USERS)}
    with timed(settings, candidate, "check_vectors"):
        named = [
            vectors.metadata(settings, encoder_id, name, version)["encoder_id"] for name, version in versions.items()
        ]
        result = check(
            _items(settings, encoder_id, versions[VectorTable.ITEMS]),
            _users(settings, encoder_id, versions[VectorTable.USERS]),
            encoder_ids=[encoder_id, *named],
            expected_items=state["run"]["items"]["total"],
            expected_users=state["run"]["users"]["with_history"],
            settings=settings,
            dimension=encoder.dimension(settings.with_encoder(state.get("encoder")).encoder),
        )
    publications.add_gate(settings, candidate, result.as_dict())
    result.raise_if_failed()
    return result.as_dict()


def _items(settings: Settings, encoder_id: str, version: int) -> pd.DataFrame:
    parts = []
    for batch in vectors.batches(settings, encoder_id, VectorTable.ITEMS, version, ["item_id", "text", "text_hash"]):
        text = vectors.vector_array(batch["text"])
        parts.append(
            pd.DataFrame(
                {
                    "item_id": batch["item_id"].to_pylist(),
                    "has_text": [name is not None for name in batch["text_hash"].to_pylist()],
                    "dimension": text.shape[1],
                    "norm": np.linalg.norm(text, axis=1).astype(np.float64),
                    "finite": np.isfinite(text).all(axis=1),
                }
            )
        )
    columns = ["item_id", "has_text", "dimension", "norm", "finite"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _users(settings: Settings, encoder_id: str, version: int) -> pd.DataFrame:
    parts = []
    several = interest_columns(vectors.columns(settings, encoder_id, VectorTable.USERS, version))
    wanted = ["user_id", "n_interactions", *USER_VECTORS, *several]
    for batch in vectors.batches(settings, encoder_id, VectorTable.USERS, version, wanted):
        long, short, behaviour = (vectors.vector_array(batch[name]) for name in USER_VECTORS)
        norms = [np.linalg.norm(vectors.vector_array(batch[name]), axis=1).astype(np.float64) for name in several]
        parts.append(
            pd.DataFrame(
                {
                    "user_id": batch["user_id"].to_pylist(),
                    "n_interactions": batch["n_interactions"].to_pylist(),
                    "dimension": long.shape[1],
                    "norm_long": np.linalg.norm(long, axis=1).astype(np.float64),
                    "norm_short": np.linalg.norm(short, axis=1).astype(np.float64),
                    "interests_off": _from_0_or_1(norms, batch.num_rows),
                    "finite": np.isfinite(long).all(axis=1)
                    & np.isfinite(short).all(axis=1)
                    & np.isfinite(behaviour).all(axis=1),
                }
            )
        )
    columns = ["user_id", "n_interactions", "dimension", "norm_long", "norm_short", "interests_off", "finite"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _from_0_or_1(norms: list[NDArray[np.float64]], rows: int) -> NDArray[np.float64]:
    """(rows,) how far the worst norm of each row is from 0 or 1; what is no number stays none."""
    found = np.zeros(rows)
    for norm in norms:
        found = np.maximum(found, np.minimum(norm, np.abs(norm - 1.0)))
    return found
