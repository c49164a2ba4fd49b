"""Let the encoder learn from what this home's users took next, and say whether it may challenge what serves.

Three spans in time that do not meet: what is learned from, the window behind it that says when to stop, and the windows of the
backtest that decides. An encoder that was trained has seen nothing of the last.
"""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.durations import duration
from include.errors import BadInput
from include.models import encoder as encoders
from include.models.learned import ADAPTER, LORA, WAYS
from include.settings import TRAINED, Encoder, Settings, Training
from include.steps.backtest import Plan, plan_backtest
from include.steps.compare_encoders import plan_comparison, report_comparison
from include.steps.plan import code_version, plan_challenger
from include.steps.plots import lines
from include.steps.read_pairs import lesson_of, lesson_tensors, read_lesson, with_neighbours
from include.steps.templates import rendered
from include.stores import artefacts, behaviour, files, lake, publications, training, vectors
from include.stores.list_quality import PRODUCT
from include.stores.lock import writing

log = logging.getLogger(__name__)

KIND = "encoder"
"""Of the artefact that a trained encoder is."""
TEXTS_AT_ONCE = 2048


def plan_training(
    settings: Settings,
    *,
    every: str = "7d",
    cuts: int = 4,
    ways: Sequence[str] = (),
    minutes: float | None = None,
    k: int = 10,
    surface: str = "home",
    until: datetime | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
) -> Plan:
    """Fix the snapshot, the spans and the ways. The same call on the same snapshot has the same name, and goes on.

    Args:
        settings: all settings; their encoder is the champion.
        every: the length of the window behind the training span, and of those of the backtest.
        cuts: how many windows the backtest has.
        ways: of `WAYS`; by default all that the encoder allows.
        minutes: time budget of each way; by default that of the settings.
        k: the length of the backtest's lists.
        surface: whose policy holds.
        until: the end of the last window of the backtest; by default the end of the last gated arrival hour of events.
        seed: of everything that draws; by default that of the settings.
        out: the folder of the report; by default, or where it is empty, one in the home's reports.

    Raises:
        BadInput: nothing serves that could be challenged, a way is none, or the data do not reach back that far.
    """
    unknown = sorted(set(ways) - set(WAYS))
    if unknown:
        raise BadInput(f"unknown way {unknown[0]!r}: choose from {', '.join(WAYS)}")
    if publications.serving_id(settings) is None:
        raise BadInput("nothing serves yet that a trained encoder could challenge: `python -m include run` first")
    if publications.pinned(settings):
        raise BadInput(
            "serving is pinned since a rollback, so nothing can be challenged: `python -m include publications unpin` first"
        )
    base = encoders.base(settings.encoder)
    left_out = {}
    if not encoders.can_learn_weights(base):
        left_out[LORA] = f"the engine of {base.source} lets no weights be changed"
    chosen = [way for way in WAYS if (way in ways or not ways) and way not in left_out]
    if not chosen:
        raise BadInput(f"nothing can be trained: {left_out[LORA]}")
    with lake.connect(settings) as connection:
        snapshot = lake.gated_snapshot(settings)
        first = None if snapshot is None else behaviour.first_event(connection, snapshot)
    comparison = plan_backtest(
        settings, every=every, cuts=cuts, k=k, surface=surface, methods=[PRODUCT], until=until, seed=seed, out=out
    )
    stop_until = datetime.fromisoformat(comparison["cuts"][0])
    train_until = stop_until - duration(every)
    if first is None or train_until <= first:
        raise BadInput(
            f"{cuts} cuts every {every}, and a window before them, leave no time to learn from: "
            f"the first interaction is of {'no time' if first is None else first.isoformat()}"
        )
    own = settings.training.model_copy(update={} if minutes is None else {"minutes": minutes})
    facts = {
        "lake_snapshot": comparison["lake_snapshot"],
        "trained_from": first.isoformat(),
        "train_until": train_until.isoformat(),
        "stop_until": stop_until.isoformat(),
        "ways": chosen,
        "left_out": left_out,
        "base": base.named,
        "base_id": encoders.identify(base),
        "champion": encoders.identify(settings.encoder),
        "training": own.model_dump(),
        "seed": comparison["seed"],
        "backtest": {name: comparison[name] for name in ("every", "k", "surface")}
        | {"cuts": cuts, "until": comparison["as_of"]},
        "code_version": code_version(),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    return {**facts, "name": f"{stop_until:%Y%m%d}-{digest}", "out": comparison["out"]}


def prepare_pairs(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Read what there is to learn from, and embed the texts of it that the base did not embed yet. Done already, it does nothing.

    Returns:
        Counts of `pairs`, `users`, `documents`, `stop_pairs`, `stop_users`, `candidates`, texts `embedded`; and `too_few`: why
        nothing is trained, or None.
    """
    there = training.read_facts(settings, plan["name"])
    if there is not None:
        return there
    own, base = Training(**plan["training"]), Encoder(**plan["base"])
    with lake.connect(settings) as connection:
        if not behaviour.has_snapshot(connection, plan["lake_snapshot"]):
            raise BadInput(f"lake snapshot {plan['lake_snapshot']} is no longer kept: start the training again")
        lesson, documents = read_lesson(connection, plan, own, plan["seed"], base)
    facts: dict[str, Any] = {
        "pairs": len(lesson.train),
        "users": len(np.unique(lesson.train.user)),
        "documents": lesson.documents,
        "stop_pairs": len(lesson.stop),
        "stop_users": len(np.unique(lesson.stop.user)),
        "candidates": len(lesson.candidates),
        "embedded": 0,
        "too_few": _too_few(own, len(lesson.train), len(lesson.stop)),
    }
    if facts["too_few"] is None:
        facts["embedded"] = _embed(settings, plan, documents)
        frozen = _frozen(settings, plan, documents)
        lesson = with_neighbours(lesson, documents["kind"].to_pylist(), frozen, plan["seed"])
    training.write_lesson(settings, plan["name"], lesson_tensors(lesson), documents, facts)
    return facts


def _too_few(own: Training, pairs: int, stop_pairs: int) -> str | None:
    for found, least, what in (
        (pairs, own.min_pairs, "pairs to learn from"),
        (stop_pairs, own.min_stop_pairs, "pairs in the window that says when to stop"),
    ):
        if found < least:
            return f"{found:,} {what}, and at least {least:,} are needed"
    return None


def _base(settings: Settings, plan: Plan) -> Encoder:
    """The encoder that is learned on, as this machine runs it."""
    return settings.with_encoder(plan["base"]).encoder


def _embed(settings: Settings, plan: Plan, documents: pa.Table) -> int:
    """Embed with the base what it did not embed yet; returns how many texts."""
    known = vectors.known_texts(settings, plan["base_id"])
    missing = [row for row in documents.to_pylist() if row["text_hash"] not in known]
    if not missing:
        return 0
    model = encoders.TextEncoder(_base(settings, plan))
    prefixes = {"item": model.encoder.item_prefix, "user": model.encoder.user_prefix}
    for kind, prefix in prefixes.items():
        rows = sorted(
            (row for row in missing if row["kind"] == kind), key=lambda row: (len(row["text"]), row["text_hash"])
        )
        for start in range(0, len(rows), TEXTS_AT_ONCE):
            part = rows[start : start + TEXTS_AT_ONCE]
            embedded = model.encode([row["text"] for row in part], prefix=prefix)
            with writing(settings):
                vectors.keep_texts(settings, model.encoder_id, [row["text_hash"] for row in part], embedded)
            log.info("embedded %d of %d %s texts", start + len(part), len(rows), kind)
    return len(missing)


def _frozen(settings: Settings, plan: Plan, documents: pa.Table) -> NDArray[np.float32]:
    width = encoders.dimension(_base(settings, plan))
    return vectors.text_vectors(settings, plan["base_id"], documents["text_hash"].to_pylist(), width)


def train_encoder(settings: Settings, plan: Plan, way: str) -> dict[str, Any]:
    """Train by one way. Killed, it goes on from its last checkpoint; done already, it does nothing.

    Returns:
        `way`, `encoder` (its settings; None where the later window was never better than with the base), `curve`, `best` (a
        position in it), `ended` (why it stopped), `seconds`, `device`; or `way`, no encoder and `skipped`: why.
    """
    from include.models.contrastive import Progress, Trainer

    there = training.read_result(settings, plan["name"], way)
    if there is not None:
        return there
    facts = training.read_facts(settings, plan["name"])
    if facts is None:
        raise BadInput(f"training {plan['name']} has no pairs: `prepare_pairs` comes before")
    if facts["too_few"] is not None:
        result = {"way": way, "encoder": None, "skipped": facts["too_few"]}
        training.write_result(settings, plan["name"], way, result)
        return result
    tensors, documents = training.read_lesson(settings, plan["name"])
    learner, lesson, pace = _learner(settings, plan, way, lesson_of(tensors), documents)
    saved = training.read_checkpoint(settings, plan["name"], way)
    if saved is not None:
        log.info("going on behind step %d", saved[0]["step"])
    trainer = Trainer(learner, lesson, pace, None if saved is None else (Progress(**saved[0]), saved[1]))

    def save(state: Any) -> None:
        progress, weights = state
        training.write_checkpoint(settings, plan["name"], way, asdict(progress), weights)

    learned = trainer.run(save)
    progress = trainer.progress
    result = {
        "way": way,
        "encoder": None,
        "curve": progress.curve,
        "best": progress.best,
        "ended": progress.ended,
        "seconds": progress.seconds,
        "device": learner.device,
    }
    if progress.best > 0:
        description = {
            "lake_snapshot": plan["lake_snapshot"],
            "trained_from": plan["trained_from"],
            "trained_until": plan["stop_until"],  # when to stop was learned from the window behind the training span
            "base": plan["base"],
            "base_id": plan["base_id"],
            "way": way,
            "training": plan["training"],
            "seed": plan["seed"],
            "later_window": _without_clock(progress.curve[progress.best]),
            "later_window_of_the_base": _without_clock(progress.curve[0]),
        }
        with writing(settings):
            name = artefacts.write(settings, KIND, learned, description)
        result["encoder"] = {**plan["base"], "source": f"{TRAINED}{name}"}
    training.write_result(settings, plan["name"], way, result)
    return result


def _without_clock(look: dict[str, Any]) -> dict[str, Any]:
    """A look at the later window as an artefact may hold it, whose name follows from all that it holds."""
    return {name: value for name, value in look.items() if name != "seconds"}


def _learner(settings: Settings, plan: Plan, way: str, lesson: Any, documents: pa.Table) -> Any:
    """What learns, what it learns from, and at what pace."""
    import torch

    from include.models.contrastive import Pace, Pairs

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Two threads of small products are slower than one on a busy machine, and other bits.
    torch.set_num_threads(1)
    own, seed = Training(**plan["training"]), plan["seed"]
    frozen = _frozen(settings, plan, documents)
    items = [number for number, kind in enumerate(documents["kind"].to_pylist()) if kind == "item"]
    mean = frozen[items].mean(axis=0, dtype=np.float64).astype(np.float32)
    shared = {
        "hard_negatives": own.hard_negatives,
        "weight_decay": own.weight_decay,
        "temperature": own.temperature,
        "popularity": own.popularity,
        "patience": own.patience,
        "epochs": own.epochs,
        "seconds": own.minutes * 60,
        "seed": seed,
    }
    if way == ADAPTER:
        from include.models.adapter import Adapter

        adapter = Adapter(frozen, mean, own.adapter_hidden, seed, device)
        rate, every = own.adapter_learning_rate, own.evaluate_every
        return adapter, lesson, Pace(own.adapter_batch, learning_rate=rate, evaluate_every=every, **shared)
    from include.models.lora import Lora

    base = _base(settings, plan)
    prefixes = {"item": base.item_prefix, "user": base.user_prefix}
    lora = Lora(
        base,
        [prefixes[kind] + text for kind, text in zip(*(documents[name].to_pylist() for name in ("kind", "text")), strict=True)],
        mean,
        layers=own.lora_layers, rank=own.lora_rank, max_tokens=own.lora_max_tokens, seed=seed, device=device,
    )  # fmt: skip

    def shorter(pairs: Pairs) -> Pairs:
        return Pairs(pairs.user, pairs.history[:, : own.lora_history], pairs.target)

    lesson = replace(lesson, train=shorter(lesson.train), stop=shorter(lesson.stop))
    rate, every = own.lora_learning_rate, own.lora_evaluate_every
    return lora, lesson, Pace(own.lora_batch, learning_rate=rate, evaluate_every=every, **shared)


def plan_trained_backtest(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Choose the way that gained most in the later window, and plan its backtest beside the champion.

    One alone: with several, the best of them would look better than it is.

    Returns:
        `comparison` (see `plan_comparison`; None where no way learned anything), `way`, and `why`.
    """
    results = [_result(settings, plan, way) for way in plan["ways"]]
    trained = [result for result in results if result["encoder"] is not None]
    if not trained:
        reasons = {
            result.get("skipped") or "the later window was never better than with the base" for result in results
        }
        return {"comparison": None, "way": None, "why": "nothing was learned: " + "; ".join(sorted(reasons))}
    best = max(trained, key=_gain)
    own = plan["backtest"]
    comparison = plan_comparison(
        settings,
        [settings.with_encoder(best["encoder"]).encoder],
        **{name: own[name] for name in ("every", "cuts", "k", "surface")},
        until=datetime.fromisoformat(own["until"]),
        seed=plan["seed"],
        out=comparison_folder(settings, plan),
        snapshot=plan["lake_snapshot"],
    )
    return {"comparison": comparison, "way": best["way"], "why": f"{best['way']} gained most in the later window"}


def _gain(result: dict[str, Any]) -> float:
    curve = result["curve"]
    return float(curve[result["best"]]["ndcg"] / max(curve[0]["ndcg"], 1e-12))


def _result(settings: Settings, plan: Plan, way: str) -> dict[str, Any]:
    found = training.read_result(settings, plan["name"], way)
    if found is None:
        raise BadInput(f"training {plan['name']} has nothing of the way {way}: `train_encoder` comes before")
    return found


def report_folder(settings: Settings, plan: Plan) -> Path:
    """Where the report goes."""
    return training.folder(settings, plan["name"]) if plan["out"] is None else Path(plan["out"])


def comparison_folder(settings: Settings, plan: Plan) -> str | None:
    """Where the comparison with the champion goes: beside the report; None, among the home's backtests, where that is no folder."""
    folder = report_folder(settings, plan)
    return None if files.is_remote(folder) else str(folder / "encoders")


def decide(settings: Settings, plan: Plan, backtest: dict[str, Any]) -> dict[str, Any]:
    """Whether the trained encoder may challenge the champion: only where its lists are better beyond the interval.

    Args:
        settings: all settings.
        plan: what `plan_training` gave.
        backtest: what `plan_trained_backtest` gave; each of its encoders was measured.

    Returns:
        `better`, `why`, `encoder` (the challenger's settings, or None), `ratio`, and `out`, the report's folder.
    """
    comparison = backtest["comparison"]
    found, ratio, challenger, better, why = None, None, None, False, backtest["why"]
    if comparison is not None:
        found = report_comparison(settings, comparison)
        challenger = comparison["encoders"][1]
        facts = found["encoders"][challenger["id"]]
        ratio = facts["to_current"]
        better = is_better(ratio)
        why = _verdict(ratio, better)
    results = [_result(settings, plan, way) for way in plan["ways"]]
    result = {
        "training": {name: value for name, value in plan.items() if name not in ("out", "name")},
        "name": plan["name"],
        "facts": training.read_facts(settings, plan["name"]),
        "ways": {each["way"]: each for each in results},
        "backtested": backtest["way"],
        "comparison": found,
        "champion": plan["champion"],
        "challenger": None if challenger is None else challenger["id"],
        "better": better,
        "why": why,
    }
    out = report_folder(settings, plan)
    training.write_report(out, result, rendered("training.html.jinja", found=result, plots=_plots(results)))
    log.info("%s: %s", "the challenger is better" if better else "the champion is kept", why)
    encoder = challenger["settings"] if better and challenger is not None else None
    return {"better": better, "why": why, "encoder": encoder, "ratio": ratio, "out": str(out)}


def is_better(ratio: dict[str, Any]) -> bool:
    """Whether a ratio of two encoders' lists is above 1 beyond its interval; never where there is nothing to compare with."""
    return ratio["low"] is not None and ratio["low"] > 1.0


def _verdict(ratio: dict[str, Any], better: bool) -> str:
    if ratio["ratio"] is None:
        return "no list of the champion had a hit, so there is nothing to compare with"
    figures = f"NDCG is {ratio['ratio']:.3f} times the champion's ({ratio['low']:.3f} to {ratio['high']:.3f})"
    return f"{figures}, so " + ("better beyond the interval" if better else "not shown to be better")


def _plots(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Curves of each way that was trained."""
    found = {}
    for result in results:
        if "curve" in result:
            steps = [str(look["step"]) for look in result["curve"]]
            for title, series in (
                ("loss", {"training": "train_loss", "later window": "loss"}),
                ("NDCG of the later window", {"over all ranks": "ndcg", "at 10": "ndcg_10"}),
            ):
                values = {name: [look[key] for look in result["curve"]] for name, key in series.items()}
                found[f"{result['way']}: {title}, by step"] = lines(values, steps)
    return found


def plan_trained_challenger(settings: Settings, decision: dict[str, Any]) -> dict[str, Any]:
    """Plan the shadow of a trained encoder that was better.

    Returns:
        As `plan_challenger` does; `candidate` is None where the champion is kept, and `reason` says why.
    """
    if decision["encoder"] is None:
        return {"candidate": None, "reason": f"the champion is kept: {decision['why']}"}
    reason = f"trained on this home's users: {decision['why']}; {decision['out']}/training.html"
    return plan_challenger(settings, Encoder(**decision["encoder"]), reason)
