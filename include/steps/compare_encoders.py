"""Which encoder for this home's data: a backtest with each of them over the same cuts, and what each costs."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.errors import BadInput
from include.models import encoder as encoders
from include.models import metrics
from include.models.texts import item_texts
from include.settings import Encoder, Settings
from include.steps.backtest import (
    Plan,
    Progress,
    backtest_cut,
    embed_history,
    out_folder,
    plan_backtest,
    refuse_foreknowledge,
)
from include.steps.encoder_cost import measured
from include.steps.report_backtest import report_backtest
from include.steps.templates import rendered
from include.stores import backtests, behaviour, lake
from include.stores.list_quality import PRODUCT

SAMPLE = 512
"""Item texts that the speed is measured on, at most; drawn."""


def plan_comparison(settings: Settings, challengers: Sequence[Encoder], **backtest: Any) -> Plan:
    """Fix what is compared: the settings' encoder, and the others with it.

    Args:
        settings: all settings.
        challengers: encoders beside that of the settings.
        backtest: as `plan_backtest` takes it: `every`, `cuts`, `k`, `surface`, `until`, `seed`, `out`, `snapshot`.

    Returns:
        `plan` (of the backtest) and `encoders`: `{id, settings}` of each, that of the settings first.

    Raises:
        BadInput: an encoder cannot be used, two are the same, there is no other one, or the backtest cannot be.
    """
    named: dict[str, Encoder] = {}
    for each in (settings.with_encoder(encoder.named).encoder for encoder in (settings.encoder, *challengers)):
        name = encoders.identify(each)
        if name in named:
            raise BadInput(f"encoder {each.source} is {name}, which is compared already: name each once")
        named[name] = each
    if len(named) == 1:
        raise BadInput("name at least one encoder to compare with that of the settings")
    plan = plan_backtest(settings, methods=[PRODUCT], **backtest)
    for each in named.values():
        refuse_foreknowledge(each, plan["cuts"])
    return {"plan": plan, "encoders": [{"id": name, "settings": each.named} for name, each in named.items()]}


def _own(settings: Settings, comparison: Plan, encoder: Plan) -> tuple[Settings, Plan]:
    """The settings and the backtest of one encoder; its results are in a folder of its own."""
    plan = comparison["plan"]
    out = plan["out"] and str(Path(plan["out"]) / encoder["id"])
    return settings.with_encoder(encoder["settings"]), {**plan, "out": out, "name": f"{plan['name']}/{encoder['id']}"}


def measure_encoder(
    settings: Settings, comparison: Plan, encoder: Plan, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Measure one encoder: how fast it embeds, what it needs, and the lists as of each cut.

    Texts that no run embedded before are embedded, and kept for later runs.

    Returns:
        `texts_per_second`, `load_seconds`, `peak_mb`, `weights_mb`, `dimension`, `vectors_mb` (of all item texts and a float
        a dimension), `texts` (that the speed was measured on) and `embedded`.
    """
    own, plan = _own(settings, comparison, encoder)
    texts, of_items = _sample(own, plan)
    cost = {
        **measured(own.encoder, texts),
        "texts": len(texts),
        "dimension": encoders.dimension(own.encoder),
        "weights_mb": encoders.weights_bytes(own.encoder) / 1e6,
        "vectors_mb": of_items * encoders.dimension(own.encoder) * 4 / 1e6,
        "embedded": embed_history(own, plan)["embedded"],
    }
    progress("embedded")
    for cut in plan["cuts"]:
        if not backtests.has_cut(out_folder(own, plan), plan["name"], cut):  # an earlier try may have got as far
            backtest_cut(own, plan, cut)
        progress(cut[:16])
    backtests.write_cost(out_folder(own, plan), cost)
    return cost


def _sample(settings: Settings, plan: Plan) -> tuple[list[str], int]:
    """Some item texts, and how many there are."""
    with lake.connect(settings) as connection:
        items = behaviour.items(connection, plan["lake_snapshot"], datetime.fromisoformat(plan["as_of"]))
    texts = sorted(set(item_texts(items)) - {""})
    if not texts:
        raise BadInput("no item has a text: there is nothing to tell encoders apart by")
    drawn = np.random.default_rng(plan["seed"]).permutation(len(texts))[:SAMPLE]
    return [texts[place] for place in drawn], len(texts)


def report_comparison(settings: Settings, comparison: Plan) -> dict[str, Any]:
    """Join what was measured: `encoders.json`, `encoders.html`, and one recommendation.

    Recommended is the fastest of the encoders that are not shown to be worse than the best.

    Returns:
        What `encoders.json` holds, and `out`, the folder.

    Raises:
        BadInput: nobody with a history did anything in any window.
    """
    plan = comparison["plan"]
    current = comparison["encoders"][0]["id"]
    found: dict[str, Any] = {}
    means: dict[str, NDArray[np.float64]] = {}
    for encoder in comparison["encoders"]:
        own, of_encoder = _own(settings, comparison, encoder)
        folder = out_folder(own, of_encoder)
        if not any(backtests.read_cut(folder, cut)["pairs"] for cut in plan["cuts"]):
            raise BadInput(
                "no user with a history used a known item in any of the windows: choose longer ones, or more"
            )
        tables = [backtests.read_table(folder, cut, "pairs") for cut in plan["cuts"]]
        pairs = pa.concat_tables(table for table in tables if table.num_rows)
        ndcg, cold = pairs["ndcg"].to_numpy(), pairs["cold_ndcg"].to_numpy()
        cold = cold[~np.isnan(cold)]
        means[encoder["id"]] = metrics.user_means(np.unique(pairs["user_id"].to_pylist(), return_inverse=True)[1], ndcg)
        found[encoder["id"]] = {
            "settings": encoder["settings"],
            **backtests.read_cost(folder),
            "ndcg": float(ndcg.mean()),
            "cold_ndcg": float(cold.mean()) if len(cold) else None,
        }
    best = max(found, key=lambda name: float(found[name]["ndcg"]))
    for name, facts in found.items():
        for against, other in (("to_current", current), ("to_best", best)):
            facts[against] = metrics.bootstrap_ratio(means[name], means[other], plan["seed"])
    chosen = recommended(found)
    result = {
        "backtest": {name: plan[name] for name in ("as_of", "every", "cuts", "k", "surface", "lake_snapshot", "seed")},
        "encoders": found,
        "users": len(means[current]),
        "current": current,
        "best": best,
        "recommended": chosen,
    }
    for encoder in comparison["encoders"]:
        report_backtest(*_own(settings, comparison, encoder))  # each has its own page, too
    out = out_folder(settings, plan)
    backtests.write_comparison(out, result, rendered("encoders.html.jinja", found=result))
    return {**result, "out": str(out)}


def recommended(found: dict[str, dict[str, Any]]) -> str:
    """The id of the fastest encoder that is not shown to be worse than the best: the interval of their ratio reaches 1.

    Args:
        found: by id, `to_best` (`high` is None where the best had no hit at all) and `texts_per_second`.
    """
    fine = [name for name, facts in found.items() if (high := facts["to_best"]["high"]) is None or high >= 1.0]
    return max(fine, key=lambda name: float(found[name]["texts_per_second"]))
