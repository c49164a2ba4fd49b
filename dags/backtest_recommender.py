"""# Backtest the recommender.

## What
Recommends as of cuts in the past, with the product's own steps and with strong simple peers, and compares with what users
then did. Each cut is a task of its own, two at a time.

## Inputs → outputs
The newest gated snapshot → `recommendations.parquet`, `metrics.json` and `report.html` in the folder of the params, else in
`reports/backtests/` of the home. What serves, and every table of the home, is left as it is; texts that no run embedded before
are kept for later runs. With the param `freshness`, what was found of the surface is kept in `reports/freshness/`, for `doctor`.

## If it fails
Runbook `backtest_recommender`. Nothing but the backtest waits for it.

## Safe to re-run?
Yes, and the same snapshot and params give the same recommendations. Clear a red `backtest_cut` alone; the others stay, and what they
found is in `cuts/` beside the results, so `report_backtest` can be cleared alone, too.

## Backfill
None: it looks back itself, by the params `every` and `cuts`.
"""

from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from include.dag_backtests import backtest_params
from include.dag_defaults import DEFAULT_ARGS, START, Tag, run_step

PLAN = "plan"  # XCom key
AT_ONCE = 2  # cuts: each takes a core and the memory of a rebuild


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        **backtest_params(),
        "methods": Param(
            [],
            type="array",
            items={"type": "string"},
            description="one a line; none stands for all that fit the surface",
        ),
        "freshness": Param(
            False, type="boolean", description="also: what lists are worth that are made anew more or less often"
        ),
    },
    tags=[Tag.TIDEMARK, Tag.RECOMMENDING, Tag.BY_HAND],
    doc_md=__doc__,
)
def backtest_recommender() -> None:
    @task
    def plan_backtest(params: dict[str, Any]) -> list[str]:
        """Fix the snapshot, the cuts and the methods."""
        from include.steps.backtest import plan_backtest

        plan = run_step(plan_backtest, **params)
        # Airflow maps tasks over what a task returns, and over no other key. The plan names every cut: with each of them once more,
        # a thousand would be 29 MB, which the API server reads anew for every task.
        get_current_context()["ti"].xcom_push(PLAN, plan)
        return list(plan["cuts"])

    @task
    def embed_history(plan: dict[str, Any]) -> dict[str, Any]:
        """Embed the texts that no run embedded before, once for all cuts."""
        from include.steps.backtest import embed_history

        return run_step(embed_history, plan)

    @task(
        map_index_template="{{ cut }}",
        max_active_tis_per_dagrun=AT_ONCE,
        doc_md="Recommend as of one cut with every method, and look at what users then did.",
    )
    def backtest_cut(plan: dict[str, Any], cut: str) -> dict[str, Any]:
        from include.steps.backtest import backtest_cut

        get_current_context()["cut"] = cut
        return run_step(backtest_cut, plan, cut)

    @task
    def report_backtest(plan: dict[str, Any]) -> dict[str, Any]:
        """Metrics with intervals against the best peer, and a page with plots."""
        from include.steps.report_backtest import report_backtest

        return run_step(report_backtest, plan)

    cuts = plan_backtest()
    plan = cuts[PLAN]
    embed_history(plan) >> backtest_cut.partial(plan=plan).expand(cut=cuts) >> report_backtest(plan)


backtest_recommender()
