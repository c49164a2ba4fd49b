"""# Clean behaviour, hourly.

## What
Cleans the landing batches of one hour (or of the span in the params `from` and `to`) with one `dbt build`, shows every
model and every failed test by name, and gates what changed in the lake. An hour without new or changed batches is a
no-op of seconds.

## Inputs → outputs
`landing/{events,items,users}/dt=…/hr=…/` → the behaviour lake (`fct_interactions`, `fct_user_texts`, `dim_items`,
`dim_users`, `fct_rejected_rows`, `audit_batches`) and a new gated snapshot: the asset `gated_behaviour`.

## If it fails
`clean_batches` or a `show_model` is red: runbook `red_dbt_model`. `check_lake_gate` is red: runbook `failed_gate`.
Nothing downstream reads past the newest gated snapshot, so what serves goes on serving.

## Safe to re-run?
Yes, at any time: the same batches give the same rows. An unfinished clean is finished by running its hours again.

## Backfill
**Trigger** → **Backfill** with **Reprocess Behavior: All Runs** (both ends are included; the runs of a paused DAG wait), or
`airflow backfill create`, for which runbook `stale_batch` says from where; for a long history one run with the params `from` and
`to`. With the param `dry_run` a run only logs which batches, rows, users and items it would touch. Runbook `fix_the_data`.
"""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from include.assets import GATED_BEHAVIOUR
from include.dag_defaults import (
    CLEANING_FIRST,
    DEFAULT_ARGS,
    START,
    WRITER_POOL,
    Tag,
    end_like,
    is_retry,
    nodes_to_show,
    run_step,
    span,
)
from include.errors import BadInput

NODES = "nodes"  # XCom key: pushed before a failing build raises, so that its models can be shown


def hour_param(what: str) -> Param:
    return Param(None, type=["null", "string"], format="date-time", description=f"{what} (whole hour, UTC)")


@dag(
    schedule=CronDataIntervalTimetable("0 * * * *", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS | {"priority_weight": CLEANING_FIRST},
    params={
        "from": hour_param("first hour to clean"),
        "to": hour_param("end of the span, not included"),
        "dry_run": Param(False, type="boolean", description="only log what the run would touch, and skip the rest"),
    },
    tags=[Tag.TIDEMARK, Tag.CLEANING, Tag.HOURLY],
    doc_md=__doc__,
)
def clean_behaviour_hourly() -> None:
    @task(pool=WRITER_POOL)
    def clean_batches(
        params: dict[str, Any],
        ti: Any = None,
        data_interval_start: datetime | None = None,
        data_interval_end: datetime | None = None,
    ) -> dict[str, Any]:
        """Clean the batches of this run's hours with one dbt build."""
        from include.steps.clean import clean
        from include.steps.dry_run import dry_run

        def clean_interval(settings: Any) -> dict[str, Any]:
            start, end = span(params["from"], params["to"]) or (data_interval_start, data_interval_end)
            if start is None:
                raise BadInput("this run has no data interval: give it the params from and to")
            if params["dry_run"]:
                return dry_run(settings, start, end)
            try:
                summary = clean(settings, start, end)
            except Exception as error:
                ti.xcom_push(NODES, getattr(error, "nodes", []))
                raise
            ti.xcom_push(NODES, summary["nodes"])
            return {key: value for key, value in summary.items() if key != "nodes"}

        summary = run_step(clean_interval)
        if params["dry_run"]:
            raise AirflowSkipException("a dry run: nothing was cleaned")
        return summary

    @task(trigger_rule="all_done", execution_timeout=timedelta(minutes=5))
    def list_models(ti: Any = None) -> list[dict[str, Any]]:
        """Every model of the build, and whatever else failed in it; also where the build as a whole failed."""
        return nodes_to_show(ti.xcom_pull("clean_batches", key=NODES) or [])

    @task(
        map_index_template="{{ node_name }}",
        execution_timeout=timedelta(minutes=5),
        doc_md="One dbt node by name: green, red or skipped as dbt left it.",  # of a mapped task, Airflow reads no docstring
    )
    def show_model(node: dict[str, Any]) -> None:
        get_current_context()["node_name"] = node["name"]
        end_like(node)

    @task(pool=WRITER_POOL, outlets=[GATED_BEHAVIOUR])
    def check_lake_gate(ti: Any = None, outlet_events: Any = None) -> dict[str, Any]:
        """Gate everything since the last gated snapshot; a snapshot that passes is what is read from now on."""
        from include.steps.gate_lake import gate_lake

        summary = run_step(gate_lake)
        # A retry speaks up even so: the try before it may have ended between the record of the gate and its event.
        if not summary["changed"] and not is_retry(ti):
            raise AirflowSkipException("nothing changed since the last gated snapshot")
        rows = (ti.xcom_pull("clean_batches") or {}).get("rows", {})
        versions = {name: summary[name] for name in ("snapshot", "since")}
        outlet_events[GATED_BEHAVIOUR].extra = versions | {"rows": rows}
        return summary

    models = list_models()
    show_model.expand(node=models)
    # A failed build is red by itself, so the gate need not wait until all models have been shown.
    clean_batches() >> [models, check_lake_gate()]


clean_behaviour_hourly()
