"""# Compare encoders.

## What
Backtests other encoders beside that of the settings, over the same cuts and with the product's own steps, measures what each
costs to embed with, and recommends one: the fastest that is not shown to be worse than the best. Each encoder is a task.

## Inputs → outputs
The newest gated snapshot and the encoders of the params → `encoders.json`, `encoders.html` and a folder of an encoder's own
backtest each, in the folder of the params, else in `reports/backtests/` of the home. What serves, and every table of the home, is
left as it is; texts that no run embedded before are kept for later runs.

## If it fails
Runbook `backtest_recommender`. Nothing but the comparison waits for it.

## Safe to re-run?
Yes. Texts that were embedded are not embedded again. Clear a red `measure_encoder` alone; the others stay.

## Backfill
None: it looks back itself, by the params `every` and `cuts`. To serve with another encoder: `switch_encoder`.
"""

from typing import Any

from airflow.sdk import Param, dag, task

from include.dag_backtests import backtest_params, measure_encoder
from include.dag_defaults import DEFAULT_ARGS, START, Tag, run_step


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "encoders": Param(
            [],
            type="array",
            items={"type": "string"},
            description="one a line, as TIDEMARK_ENCODER__SOURCE takes it, or a JSON object of settings (docs/encoders.md)",
        ),
        **backtest_params(),
    },
    tags=[Tag.TIDEMARK, Tag.RECOMMENDING, Tag.BY_HAND],
    doc_md=__doc__,
)
def compare_encoders() -> None:
    @task
    def plan_comparison(params: dict[str, Any]) -> list[dict[str, Any]]:
        """Fix the encoders, the snapshot and the cuts."""
        from include.steps.challenge import named_encoder
        from include.steps.compare_encoders import plan_comparison

        def plan(settings: Any) -> dict[str, Any]:
            backtest = {name: value for name, value in params.items() if name != "encoders"}
            return plan_comparison(settings, [named_encoder(text) for text in params["encoders"]], **backtest)

        comparison = run_step(plan)
        return [{"comparison": comparison, "encoder": encoder} for encoder in comparison["encoders"]]

    @task
    def report_comparison(work: list[dict[str, Any]]) -> dict[str, Any]:
        """A page, the numbers as JSON, and one recommendation."""
        from include.steps.compare_encoders import report_comparison

        return run_step(report_comparison, work[0]["comparison"])

    work = plan_comparison()
    measure_encoder.expand_kwargs(work) >> report_comparison(work)


compare_encoders()
