"""# Recommend, daily.

## What
Lists every user afresh, as of the end of the day (T = the interval's end, but at most the end of the last gated arrival
hour), and publishes. A run that comes up to a day late, behind an hourly update of a later T, takes that T; in a backfill T stays
the interval's end. Candidate sources are fitted as of T; the ranker is learned from the windows before T when it is a day old, and a
trial on the newest of them says how far it is trusted (too few users: the surface's weights stay, or habits decide; the artefact
says which it was and why), the item-to-item factors when they are a week old.

## Inputs → outputs
The gated lake and the newest publication's vectors → all vector and recommendation tables and a publication: the asset
`publication`. It serves unless its T (at the same T, its lake snapshot) precedes the serving one's. The lake's tables
`list_quality` and `list_clicks`.

## If it fails
What serves goes on serving. A red `check_served_lists`: the new lists are published all the same; runbook `served_lists`. A red
`check_vectors` or `check_lists`: runbook `failed_gate`. Else runbook `failed_update`.

## Safe to re-run?
Yes. The same T, snapshot and artefacts give the same lists. A day is scored once; with the param `score_again` the last days are
scored again, in the place of what was there, such as after their data were fixed.

## Backfill
**Trigger** → **Backfill** with **Reprocess Behavior: All Runs**, or `airflow backfill create` (runbook `stale_batch` says from where),
gives one publication a day; those of the past are kept but do not serve.
"""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, dag, task

from include.dag_defaults import DEFAULT_ARGS, START, WRITER_POOL, Tag, make_publication, run_step, work_of


@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "score_again": Param(
            0, type="integer", minimum=0, maximum=3650, description="how many of the last days to score again"
        )
    },
    tags=[Tag.TIDEMARK, Tag.RECOMMENDING, Tag.DAILY],
    doc_md=__doc__,
)
def recommend_daily() -> None:
    @task(pool=WRITER_POOL)
    def plan(data_interval_end: datetime | None = None, dag_run: Any = None) -> list[dict[str, Any]]:
        """Fix T, the snapshot and the artefacts of a publication for everyone; skip the rest where it is there."""
        from include.steps.plan import NOT_LATE, plan_recommend

        late = NOT_LATE if dag_run.run_type == "backfill" else timedelta(days=1)
        return work_of(run_step(plan_recommend, data_interval_end, late=late))

    # Also where there was nothing to publish; but a failure before it stays the run's.
    @task(pool=WRITER_POOL, trigger_rule="none_failed")
    def score_served_lists(params: dict[str, Any]) -> dict[str, Any]:
        """Score the lists that served on the last days against what users then did, beside recent popularity."""
        from include.steps.score_served import score_served

        return run_step(score_served, params["score_again"])

    @task
    def check_served_lists() -> dict[str, Any]:
        """Alarm: red when the served lists were no better than recent popularity on any of the last seven scored days."""
        from include.steps.check_served import check_served

        return run_step(check_served)

    make_publication(plan()) >> score_served_lists() >> check_served_lists()


recommend_daily()
