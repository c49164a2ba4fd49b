"""# Maintain stores, daily.

## What
Prunes publications by retention (with their tags, lake snapshots, vector versions and artefacts), removes what killed runs
left and old reports, gives up publications before their time where the home is above its disk budget, and puts small files of the
lake and the vectors together. Says what was freed, by store. Beside it `check_batches` turns red while there are hours that are over and
not cleaned as they landed: late files, corrections, hours that Airflow missed.

## Inputs → outputs
All stores of the home → the same stores, smaller, with every publication that stays as it was; a report in
`reports/maintenance/`. Settings: `TIDEMARK_RETENTION__DAYS`, `…__REPORT_DAYS`, `…__GRACE_HOURS`, `…__DISK_BUDGET_GB`.

## If it fails
Runbook `disk_full`; where `check_batches` is red, `stale_batch`. Nothing that serves is harmed, wherever it stopped; the next run goes on.

## Safe to re-run?
Yes, at any time. With the param `dry_run` it only says what would go.

## Backfill
None: it looks at the stores as they are now.
"""

from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, dag, task

from include.dag_defaults import DEFAULT_ARGS, START, WRITER_POOL, Tag, run_step


@dag(
    schedule=CronDataIntervalTimetable("30 3 * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={"dry_run": Param(False, type="boolean", description="only say what would go")},
    tags=[Tag.TIDEMARK, Tag.MAINTENANCE, Tag.DAILY],
    doc_md=__doc__,
)
def maintain_stores_daily() -> None:
    @task(pool=WRITER_POOL)
    def maintain_stores(params: dict[str, Any]) -> dict[str, Any]:
        """Retention, orphans, old reports, disk budget, compaction; the summary says what was freed."""
        from include.steps.maintain import maintain

        return run_step(maintain, params["dry_run"])

    @task
    def check_batches() -> dict[str, Any]:
        """Hours that are over are in the lake as they landed."""
        from include.steps.check_batches import check_batches

        return run_step(check_batches)

    maintain_stores()
    check_batches()


maintain_stores_daily()
