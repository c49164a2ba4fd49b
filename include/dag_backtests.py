"""What DAGs share that look back: the params of a backtest, and the task that backtests with one encoder."""

from typing import Any

from airflow.sdk import Param, get_current_context, task

from include.dag_defaults import run_step


def backtest_params() -> dict[str, Param]:
    """The params that every backtest has, under the names of `plan_backtest`."""
    return {
        "every": Param(
            "7d", type="string", pattern=r"^[1-9][0-9]*[dh]$", description="from one cut to the next: 7d, 12h"
        ),
        "cuts": Param(4, type="integer", minimum=1, maximum=1000, description="how many cuts"),
        "k": Param(10, type="integer", minimum=1, maximum=1000, description="items in a list"),
        "surface": Param("home", type="string", description="whose policy holds"),
        "out": Param(
            "",
            type="string",
            pattern=r"^(/[^\x00]*)?$",
            description="a folder for the results, from / on, that every worker sees; empty: one in the home's reports",
        ),
    }


@task(
    map_index_template="{{ encoder_id }}",
    max_active_tis_per_dagrun=1,  # speeds are compared, so nothing else runs beside
    doc_md="Measure one encoder's speed and memory, embed what it lacks, and recommend as of each cut.",
)
def measure_encoder(comparison: dict[str, Any], encoder: dict[str, Any]) -> dict[str, Any]:
    """The task of one encoder of a comparison."""
    from include.steps.compare_encoders import measure_encoder

    get_current_context()["encoder_id"] = encoder["id"]
    return run_step(measure_encoder, comparison, encoder)
