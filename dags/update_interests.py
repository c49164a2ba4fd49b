"""# Update interests.

## What
Follows the lake: embeds new texts, moves the vectors of the users and items whose input changed, relists those users,
puts items that landed into the places that lists keep for new items, and publishes. Where a surface asks for hourly trends, it lists everyone anew, as of its own T.

## Inputs → outputs
The asset `gated_behaviour` (this run asks the lake what changed since the publication it builds on, so one run may
stand for several events) → `item_vectors`, `user_vectors`, `recommendations_home` and a publication: the asset
`publication`.

## If it fails
What serves goes on serving. A red `check_…`: runbook `failed_gate`. Else runbook `failed_update`.

## Safe to re-run?
Yes. Each run starts from the manifest of the newest publication, not from what a failed run left behind.

## Backfill
None of its own: backfill `clean_behaviour_hourly`, and this follows. Vectors from nothing: `python -m include rebuild`.
"""

from typing import Any

from airflow.sdk import dag, task

from include.assets import GATED_BEHAVIOUR
from include.dag_defaults import DEFAULT_ARGS, START, WRITER_POOL, Tag, make_publication, run_step, work_of


@dag(
    schedule=[GATED_BEHAVIOUR],
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    tags=[Tag.TIDEMARK, Tag.RECOMMENDING, Tag.ON_ASSET],
    doc_md=__doc__,
)
def update_interests() -> None:
    @task(pool=WRITER_POOL)
    def plan() -> list[dict[str, Any]]:
        """Find what changed since the publication to build on; skip the rest where nothing did."""
        from include.steps.plan import plan_update

        return work_of(run_step(plan_update))

    make_publication(plan())


update_interests()
