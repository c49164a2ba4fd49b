"""# Roll back a publication.

## What
Lets an earlier publication serve again, in one atomic step, and pins it there. `compare` logs what differs. With
`dry_run`, which is the default, nothing is switched.

## Inputs → outputs
The params `publication` (empty: the one that served before), `reason` and `dry_run` → the serving pointer, with the
switch and its reason recorded, and an event of the asset `publication`. No table is written: the earlier publication's
tables were kept as they were.

## If it fails
`choose` is red: nothing was switched, and its log says why. `compare` is red: the switch is made all the same.

## Safe to re-run?
Yes. Clear `roll_back` alone, which goes to the same publication; with none named, a whole new run goes one further back.

## Backfill
None. Later publications go on being made but do not serve until `python -m include publications unpin`.
"""

from typing import Any

from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

from include.assets import PUBLICATION
from include.dag_defaults import DEFAULT_ARGS, START, SWITCHING_FIRST, WRITER_POOL, Tag, run_step
from include.errors import BadInput


@dag(
    schedule=None,
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "publication": Param(
            None, type=["null", "string"], description="its id; empty stands for the one that served before"
        ),
        "reason": Param("", type="string", description="why, for the record; needed unless it is a dry run"),
        "dry_run": Param(True, type="boolean", description="only log what would serve and what differs"),
    },
    tags=[Tag.TIDEMARK, Tag.BY_HAND],
    doc_md=__doc__,
)
def roll_back_publication() -> None:
    @task
    def choose(params: dict[str, Any]) -> dict[str, Any]:
        """Fix where to, so that a retry goes to the same publication."""
        from include.steps.roll_back import choose_publication

        def choose_with_reason(settings: Any) -> dict[str, Any]:
            if not params["dry_run"] and not params["reason"].strip():
                raise BadInput("param reason: say why the earlier publication should serve; the switch keeps it")
            return choose_publication(settings, params["publication"])

        return run_step(choose_with_reason)

    @task(pool=WRITER_POOL, priority_weight=SWITCHING_FIRST, outlets=[PUBLICATION])
    def roll_back(chosen: dict[str, Any], params: dict[str, Any], outlet_events: Any = None) -> dict[str, Any]:
        """Switch the serving pointer."""
        from include.steps.roll_back import roll_back

        if params["dry_run"]:
            raise AirflowSkipException(f"a dry run: {chosen['to']} would serve in place of {chosen['from']}")
        change = run_step(roll_back, chosen["to"], params["reason"])
        outlet_events[PUBLICATION].extra = {"publication": change["to"], "serving": True}
        return change

    @task
    def compare(chosen: dict[str, Any]) -> dict[str, Any]:
        """Log what differs: whose interests, which lists, counts and gates."""
        from include.steps.roll_back import log_comparison

        return run_step(log_comparison, chosen["from"], chosen["to"])

    chosen = choose()
    roll_back(chosen)
    compare(chosen)


roll_back_publication()
