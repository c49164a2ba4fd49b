"""Join what the cuts of a backtest found: recommendations, metrics with intervals, and a page."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from include.errors import BadInput
from include.models import encoder, metrics
from include.models.freshness import CADENCES, curve
from include.models.peers import PEERS
from include.settings import Settings
from include.steps.backtest import EASE, LISTS, VECTORS, Plan, out_folder
from include.steps.freshness import CURVES, FRESHNESS, POPULARITY, TRENDS
from include.steps.judging import GROUPS, in_group
from include.steps.plan import code_version
from include.steps.plots import bars, lines
from include.steps.templates import rendered
from include.stores import backtests
from include.stores.list_quality import PRODUCT

METRICS = ("ndcg", "recall", "hit_rate", "mrr")
COUNTS = (
    "pairs", "targets", "users_in_window", "users_without_history", "users_without_target", "items_released_in_window",
    "targets_released_in_window",
)  # fmt: skip
RESULT = pa.schema([("cut", pa.timestamp("us", tz="UTC")), *LISTS])


def report_backtest(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Write `recommendations.parquet`, `metrics.json` and `report.html` of a backtest whose cuts are all done; as often as need be.

    Returns:
        `out` (the folder), `best_peer`, `ratio` of the product to it, and `ndcg` by method; `metrics.json` has the rest.

    Raises:
        BadInput: nobody with a history did anything in any window, or each method was refused at some cut.
    """
    out = out_folder(settings, plan)
    cuts = {cut: backtests.read_cut(out, cut) for cut in plan["cuts"]}
    if not any(facts["pairs"] for facts in cuts.values()):
        raise BadInput(
            f"no user with a history used a known{'' if plan['show_seen'] else ', new'} item in any of the windows, from "
            f"{min(cuts)} on: choose longer ones (--every), more of them (--cuts), or earlier ones (--until)"
        )
    refused = {name: why for facts in cuts.values() for name, why in facts["refused"].items()}
    if set(plan["methods"]) <= refused.keys():
        raise BadInput(f"no method is left, choose others (--methods): {'; '.join(map(': '.join, refused.items()))}")
    pairs = {cut: backtests.read_table(out, cut, "pairs") for cut in cuts}
    found = _metrics(settings, plan, cuts, pairs, refused)
    if plan[FRESHNESS]:
        rows = {cut: backtests.read_table(out, cut, FRESHNESS) for cut in cuts}
        found[FRESHNESS] = _freshness(plan, {cut: facts[FRESHNESS] for cut, facts in cuts.items()}, rows)
        record = {"backtest": found["backtest"], FRESHNESS: found[FRESHNESS], "out": str(out)}
        kept = backtests.read_freshness(settings, plan["surface"])
        if kept is None or _as_of(kept) <= _as_of(record):
            backtests.write_freshness(settings, plan["surface"], record)
    backtests.write_results(out, _recommendations(out, plan), found, _page(found))
    backtests.keep_cuts(out, plan["cuts"])
    ndcg = {name: round(method["ndcg"], 6) for name, method in ranked(found)}
    return {"out": str(out), "best_peer": found["best_peer"], "ratio": found["ratio"], "ndcg": ndcg}


def _recommendations(out: Path, plan: Plan) -> pa.Table:
    """The lists of all cuts, sorted by cut, method (in the plan's order), user and rank."""
    tables = []
    for cut in plan["cuts"]:
        lists = backtests.read_table(out, cut, "recommendations")
        moments = pa.array([datetime.fromisoformat(cut).astimezone(UTC)] * lists.num_rows, RESULT.field("cut").type)
        tables.append(lists.add_column(0, "cut", moments))
    return pa.concat_tables(tables).cast(RESULT)


def _metrics(
    settings: Settings,
    plan: Plan,
    cuts: dict[str, dict[str, Any]],
    pairs: dict[str, pa.Table],
    refused: dict[str, str],
) -> dict[str, Any]:
    there = [cut for cut, table in pairs.items() if table.num_rows]
    every = pa.concat_tables(pairs[cut] for cut in there)
    which = np.repeat(np.arange(len(there)), [pairs[cut].num_rows for cut in there])
    method = np.array(every["method"].to_pylist(), dtype=object)
    users, user = np.unique(np.array(every["user_id"].to_pylist(), dtype=object), return_inverse=True)
    values = {name: every[name].to_numpy() for name in every.column_names if name not in ("method", "user_id")}
    methods: dict[str, Any] = {}
    means: dict[str, NDArray[np.float64]] = {}
    for name in plan["methods"]:
        if name in refused:  # at one cut is enough: what is compared is of the same cuts
            continue
        own = method == name
        means[name] = metrics.user_means(user[own], values["ndcg"][own])
        length = values["n_history"]
        methods[name] = {
            **_means(values, own),
            "cold_items": _means(values, own & ~np.isnan(values["cold_ndcg"]), "cold_"),
            **{what: float(np.mean([cuts[cut][what][name] for cut in there])) for what in ("coverage", "novelty")},
            "user_groups": {group: _means(values, own & in_group(length, group)) for group in GROUPS},
            "cuts": {
                cut: {
                    **_means(values, own & (which == number)),
                    **{what: cuts[cut][what][name] for what in ("coverage", "novelty")},
                }
                for number, cut in enumerate(there)
            },
        }
        if name in PEERS:
            methods[name]["settings"] = {cut: cuts[cut]["settings"][name] for cut in there}
    peers = [name for name in methods if name in PEERS]
    best = max(peers, key=lambda name: methods[name]["ndcg"], default=None)  # the first of equals
    ratios = (
        {}
        if best is None
        else {name: metrics.bootstrap_ratio(means[name], means[best], plan["seed"]) for name in methods}
    )
    alone = {VECTORS, EASE} <= means.keys()
    return {
        "backtest": {
            **{name: plan[name] for name in ("as_of", "every", "cuts", "k", "surface", "show_seen", "lake_snapshot", "seed")},
            "encoder_id": encoder.identify(settings.encoder),
            "settings_hash": settings.hash,
            "code_version": code_version(),
        },
        "counts": {name: sum(facts[name] for facts in cuts.values()) for name in COUNTS} | {"users": len(users)},
        "methods": methods,
        "best_peer": best,
        "ratio": ratios.get(PRODUCT),
        "against_best_peer": ratios,
        "vectors_against_ease": metrics.bootstrap_ratio(means[VECTORS], means[EASE], plan["seed"]) if alone else None,
        "refused": refused,
        "failed_gates": [{"cut": cut, "gate": gate} for cut, facts in cuts.items() for gate in facts["gates"]],
        "cuts": {
            cut: {name: facts[name] for name in (*COUNTS, "eligible_items", "choice_pairs", "ranker") if name in facts}
            for cut, facts in cuts.items()
        },
    }  # fmt: skip


def _as_of(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["backtest"]["as_of"])


def _freshness(plan: Plan, cuts: dict[str, dict[str, Any]], tables: dict[str, pa.Table]) -> dict[str, Any]:
    """What each cadence is worth, by curve, all over the same cuts; what could not be measured is left out with the reason."""
    curves: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    with_ranker = [cut for cut, table in tables.items() if TRENDS in table["curve"].to_pylist()]
    without = [cut for cut, table in tables.items() if table.num_rows and cut not in with_ranker]
    if with_ranker and without:
        left_out |= dict.fromkeys(without, "its lists keep the blend, which has no trends")
        cuts, tables = ({cut: each[cut] for cut in with_ranker} for each in (cuts, tables))
    elif without:
        why = "lists of all cuts keep the blend" if PRODUCT in plan["methods"] else f"{PRODUCT} is none of the methods"
        left_out |= {name: why for name in CURVES if name != POPULARITY}
    rows = pa.concat_tables(tables.values())
    named, cadence = (np.array(rows[name].to_pylist(), dtype=object) for name in ("curve", "cadence"))
    users = np.array(rows["user_id"].to_pylist(), dtype=object)
    ndcg = rows["ndcg"].to_numpy()
    for name in CURVES:
        values = {each: ndcg[own] for each in CADENCES if (own := (named == name) & (cadence == each)).any()}
        if values:
            of = np.unique(users[(named == name) & (cadence == "never")], return_inverse=True)[1]
            curves[name] = curve(values, of, plan["seed"])
    measured = {each for found in curves.values() for each in found["cadences"]}
    counts = {what: sum(facts[what] for facts in cuts.values()) for what in ("rows", "targets", "targets_released")}
    return {
        **counts,
        "users": len(set(users)),
        "curves": curves,
        "half_life_days": {cut: facts["half_life_days"] for cut, facts in cuts.items()},
        "left_out": left_out
        | {
            each: f"no refresh of it falls inside a window of {plan['every']}, where it is the same as never"
            for each in CADENCES
            if measured and each not in measured
        },
    }


def _means(values: dict[str, NDArray[np.float64]], rows: NDArray[np.bool_], prefix: str = "") -> dict[str, Any]:
    """The mean of each metric over some rows, and how many pairs those are; None of none."""
    some = bool(rows.any())
    found = {name: float(values[prefix + name][rows].mean()) if some else None for name in METRICS}
    return {**found, "pairs": int(rows.sum())}


def _page(found: dict[str, Any]) -> str:
    methods, k = found["methods"], found["backtest"]["k"]
    cuts = list(next(iter(methods.values()))["cuts"])
    plots = {
        f"NDCG@{k} by cut": lines({name: [each["cuts"][cut]["ndcg"] for cut in cuts] for name, each in methods.items()}, [cut[:16] for cut in cuts]),
        f"NDCG@{k} by the length of the user's history": bars({name: [each["user_groups"][group]["ndcg"] for group in GROUPS] for name, each in methods.items()}, list(GROUPS)),
        f"NDCG@{k} of cold items": bars({name: [each["cold_items"]["ndcg"]] for name, each in methods.items()}, ["cold items"]),
        "Coverage": bars({name: [each["coverage"]] for name, each in methods.items()}, ["share of the catalogue"]),
        "Novelty": bars({name: [each["novelty"]] for name, each in methods.items()}, ["bits"]),
    }  # fmt: skip
    if found.get(FRESHNESS, {}).get("curves"):
        curves = found[FRESHNESS]["curves"]
        cadences = list(next(iter(curves.values()))["cadences"])
        plots[f"Freshness: NDCG@{k} of each hour, by how often lists are made anew"] = lines(
            {name: [each["cadences"][cadence]["ndcg"] for cadence in cadences] for name, each in curves.items()},
            cadences,
        )
    return rendered(
        "backtest.html.jinja", found=found, ranked=ranked(found), groups=list(GROUPS), plots=plots, curves=CURVES
    )


def ranked(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The methods, the best first."""
    return sorted(found["methods"].items(), key=lambda each: -each[1]["ndcg"])
