"""# Train the encoder, weekly.

## What
Lets the encoder learn from what this home's users did and wrote, and then took: an adapter on the frozen text vectors, and LoRA on
its last layers. The way that gained most in the window behind the training span is backtested beside the encoder that serves, in
windows that neither has seen. Only where its lists are better beyond the 95 % interval does it become a challenger: a shadow, a
comparison, **Required Actions** → `approve`, and a switch. Else what serves is kept, and the report says why.

## Inputs → outputs
The newest gated snapshot and the encoder that serves → `training.html` and `training.json` in the folder of the params, else in
`reports/training/` of the home; where it was better, an artefact `encoder-…`, tables of its vectors, a shadow publication, its page,
and after an approval the asset `publication`.

## If it fails
What serves goes on serving. Runbook `train_encoder_weekly`. A red `check_…`: runbook `failed_gate`; another task from
`embed_texts` to `publish`: runbook `failed_update`. `serve_challenger` is red: nothing was switched; clear it, and it goes on.

## Safe to re-run?
Yes. A `train_encoder` that was killed goes on from its last checkpoint, texts that were embedded are not embedded again. Cleared from
`plan_training`, it trains anew where the snapshot is another one.

## Backfill
None: a training of the past would challenge nothing. Back to the encoder before: `roll_back_publication`.
"""

from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, dag, get_current_context, task

from include.dag_backtests import backtest_params, measure_encoder
from include.dag_challengers import HOURS_TO_DECIDE, challenge, hours_to_decide
from include.dag_defaults import DEFAULT_ARGS, START, WRITER_POOL, Tag, run_step, work_of

BACKTEST = "backtest"  # XCom key


@dag(
    schedule=CronDataIntervalTimetable("0 2 * * 0", timezone="UTC"),
    start_date=START,
    catchup=False,
    max_active_runs=1,
    default_args=DEFAULT_ARGS,
    params={
        "ways": Param(
            [], type="array", items={"type": "string", "enum": ["adapter", "lora"]}, description="none stands for all"
        ),
        **backtest_params(),
        "minutes": Param(
            None,
            type=["null", "number"],
            exclusiveMinimum=0,
            maximum=100,
            description="time budget of each way; empty stands for TIDEMARK_TRAINING__MINUTES",
        ),
        HOURS_TO_DECIDE: hours_to_decide(),
    },
    tags=[Tag.TIDEMARK, Tag.RECOMMENDING, Tag.WEEKLY],
    doc_md=__doc__,
)
def train_encoder_weekly() -> None:
    @task
    def plan_training(params: dict[str, Any]) -> dict[str, Any]:
        """Fix the snapshot, the three spans in time, and the ways."""
        from include.steps.train_encoder import plan_training

        own = {name: value for name, value in params.items() if name != HOURS_TO_DECIDE}
        return run_step(plan_training, **own)

    @task
    def prepare_pairs(plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Read what users did before and took next, and embed the texts that no run embedded before."""
        from include.steps.train_encoder import prepare_pairs

        run_step(prepare_pairs, plan)
        return [{"plan": plan, "way": way} for way in plan["ways"]]

    @task(
        map_index_template="{{ way }}",
        max_active_tis_per_dagrun=1,  # each takes a core, or the GPU
        doc_md="Train by one way; killed, it goes on from its last checkpoint. The log has the loss and how long it may take.",
    )
    def train_encoder(plan: dict[str, Any], way: str) -> dict[str, Any]:
        from include.steps.train_encoder import train_encoder

        get_current_context()["way"] = way
        return run_step(train_encoder, plan, way)

    @task
    def plan_trained_backtest(plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Choose the way that gained most in the later window, and plan its backtest beside what serves."""
        from include.steps.train_encoder import plan_trained_backtest

        backtest = run_step(plan_trained_backtest, plan)
        comparison = backtest["comparison"]
        encoders = [] if comparison is None else comparison["encoders"]
        # Airflow maps tasks over what a task returns, and over no other key.
        get_current_context()["ti"].xcom_push(BACKTEST, backtest)
        return [{"comparison": comparison, "encoder": each} for each in encoders]

    # Also where nothing was learned, so that there was nothing to measure: the report says so.
    @task(trigger_rule="none_failed")
    def decide(plan: dict[str, Any], backtest: dict[str, Any]) -> dict[str, Any]:
        """Say whether its lists are better beyond the interval, and write the report."""
        from include.steps.train_encoder import decide

        return run_step(decide, plan, backtest)

    @task(pool=WRITER_POOL)
    def plan_trained_challenger(decision: dict[str, Any]) -> list[dict[str, Any]]:
        """Plan its shadow; skip the rest where what serves is kept."""
        from include.steps.train_encoder import plan_trained_challenger

        return work_of(run_step(plan_trained_challenger, decision))

    plan = plan_training()
    work = plan_trained_backtest(plan)
    train_encoder.expand_kwargs(prepare_pairs(plan)) >> work
    decision = decide(plan, work[BACKTEST])
    measure_encoder.expand_kwargs(work) >> decision
    challenge(plan_trained_challenger(decision))


train_encoder_weekly()
