"""The steps from a planned candidate up to its publication, in their order.

Each takes the settings and the candidate. `SHARDED` ones also take the number of a shard; without it they do the work of all.
"""

from collections.abc import Callable
from typing import Any

from include.steps.check_lists import check_lists
from include.steps.check_vectors import check_vectors
from include.steps.embed_texts import embed_texts
from include.steps.keep_lists import keep_lists
from include.steps.keep_users import keep_users
from include.steps.train_artefacts import train_artefacts
from include.steps.update_items import update_items
from include.steps.update_lists import update_lists
from include.steps.update_users import update_users

Step = Callable[..., dict[str, Any]]

STEPS: tuple[Step, ...] = (
    embed_texts,
    train_artefacts,
    update_items,
    update_users,
    keep_users,
    check_vectors,
    update_lists,
    keep_lists,
    check_lists,
)
SHARDED = (embed_texts, update_users, update_lists)
