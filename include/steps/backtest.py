"""The backtest: what would have been recommended at cuts in the past, and what users then did.

`recommend_as_of` sees what was known at a cut and nothing else; the window behind the cut says only whom to ask for and what
was right. It reads through `include.stores.behaviour`, as all of the product does.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import csr_array

from include.columns import Artefact, VectorTable
from include.durations import duration
from include.errors import BadInput, GateFailed
from include.models import encoder as encoders
from include.models import metrics, peers
from include.models.peers import PEERS
from include.settings import Encoder, Settings, Surface
from include.steps.chain import STEPS
from include.steps.embed_texts import embed_and_keep
from include.steps.freshness import FRESHNESS, Learned, measure_freshness
from include.steps.item_texts import centred, item_text_vectors, text_mean
from include.steps.judging import Known, Window, known_as_of, metrics_of, window
from include.steps.learn_lists import load_ranking
from include.steps.plan import gated, plan_rebuild
from include.stores import artefacts, backtests, behaviour, lake, publications, vectors
from include.stores.list_quality import PRODUCT

log = logging.getLogger(__name__)

Plan = dict[str, Any]
Progress = Callable[[str], None]

VECTORS = "tidemark_vectors"
METHODS = (PRODUCT, VECTORS, *PEERS)
EASE = "ease"
"""What u·p is to come near to: it is EASE's matrix, factorised."""
REPEATS = "own_frequency"
"""A peer for surfaces that show what users had already; elsewhere nothing of its own would be left."""
COLD = 5
"""Items with fewer interactions than this before a cut are cold."""
LISTS = pa.schema(
    [
        ("method", pa.string()),
        ("user_id", pa.string()),
        ("rank", pa.int32()),
        ("item_id", pa.string()),
        ("score", pa.float64()),
    ]
)


def plan_backtest(
    settings: Settings,
    *,
    every: str,
    cuts: int,
    k: int = 10,
    surface: str = "home",
    methods: Sequence[str] = (),
    until: datetime | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    freshness: bool = False,
    snapshot: int | None = None,
) -> Plan:
    """Fix the snapshot, the cuts and the methods of a backtest.

    Args:
        settings: all settings.
        every: the length of a window, and the distance of cuts, such as `7d` or `12h`.
        cuts: how many.
        k: the length of a list.
        surface: whose policy holds.
        methods: by default all that make sense for the surface.
        until: the end of the last window; by default the end of the last gated arrival hour of events.
        seed: of everything that draws; by default that of the settings.
        out: the folder of the results; by default, or where it is empty, one in the home's reports.
        freshness: whether to measure, too, what lists are worth as they grow old.
        snapshot: of the lake; by default the newest gated one.

    Raises:
        BadInput: a span, method or surface is none, nothing can be written to `out`, nothing is gated yet, the data do not reach
            back that far, or the encoder learned from what is to be foretold.
    """
    span = duration(every)
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise BadInput(f"unknown method {unknown[0]!r}: choose from {', '.join(METHODS)}")
    policy = _surface(settings, surface)
    folder = backtests.checked(settings, str(out)) if out else None
    snapshot = gated(settings) if snapshot is None else snapshot
    with lake.connect(settings) as connection:
        newest, first = behaviour.default_as_of(connection, snapshot), behaviour.first_event(connection, snapshot)
    end = until or newest
    if end > newest:
        raise BadInput(f"the data end at {newest.isoformat()}: no window can end at {end.isoformat()}")
    fit = 0 if first is None else max(0, -((first - end) // span) - 1)
    if cuts > fit:
        raise BadInput(
            f"{cuts} cuts every {every} reach back to before the first interaction "
            f"({'there is none' if first is None else first.isoformat()}): at most {fit} fit before {end.isoformat()}"
        )
    chosen = [name for name in METHODS if name in methods] or [
        name for name in METHODS if policy.show_seen or name != REPEATS
    ]
    if chosen == [REPEATS] and not policy.show_seen:
        raise BadInput(f"the surface {surface} shows nothing that a user had already, so {REPEATS} has nothing to list")
    moments = [(end - span * number).isoformat() for number in range(cuts, 0, -1)]
    if {PRODUCT, VECTORS, peers.TEXT} & set(chosen):
        refuse_foreknowledge(settings.encoder, moments)
    return {
        "lake_snapshot": snapshot,
        "as_of": end.isoformat(),
        "every": every,
        "cuts": moments,
        "k": k,
        "surface": surface,
        "show_seen": policy.show_seen,
        "methods": chosen,
        "seed": settings.seed if seed is None else seed,
        "freshness": freshness,
        "out": None if folder is None else str(folder),
        "name": publications.new_name(),
    }


def refuse_foreknowledge(encoder: Encoder, cuts: list[str]) -> None:
    """Do nothing where an encoder learned from nothing behind the first cut.

    Raises:
        BadInput: it was trained on the home's own events up to a later time.
    """
    until = encoders.learned_until(encoder)
    if until is not None and datetime.fromisoformat(until) > datetime.fromisoformat(cuts[0]):
        raise BadInput(
            f"encoder {encoder.source} learned from what users did until {until}, so it cannot be judged by what they did "
            f"from {cuts[0]} on: fewer or shorter cuts, or the encoder that it was trained from"
        )


def out_folder(settings: Settings, plan: Plan) -> Path:
    """Where the results go."""
    return backtests.folder(settings, plan["name"]) if plan["out"] is None else Path(plan["out"])


def product_settings(settings: Settings, plan: Plan, folder: Path) -> Settings:
    """The settings that the product's own steps run with at a cut: those of the home, beside it, for one surface.

    Lists that serve for a window are best learned from windows as long, unless the settings name a length.
    """
    surface = _surface(settings, plan["surface"])
    listed = surface.model_copy(update={"length": max(surface.length, plan["k"])})
    length = settings.ranker.window_days or duration(plan["every"]) / timedelta(days=1)
    ranker = settings.ranker.model_copy(update={"window_days": length})
    changes = {"surfaces": (listed,), "ranker": ranker, "shards": 1, "seed": plan["seed"]}
    return settings.model_copy(update=changes).beside(folder)


def embed_history(settings: Settings, plan: Plan) -> dict[str, Any]:
    """Embed what no run embedded before, so that cuts side by side do not all do it.

    As of the last cut; where freshness is measured, also what appears in its window.

    Returns:
        How many texts were embedded.
    """
    if not {PRODUCT, VECTORS, peers.TEXT} & set(plan["methods"]):
        return {"embedded": 0}
    with backtests.scratch(settings) as folder:
        product = product_settings(settings, plan, folder)
        until = datetime.fromisoformat(plan["as_of"] if plan["freshness"] else plan["cuts"][-1])
        candidate = plan_rebuild(product, until, snapshot=plan["lake_snapshot"])["candidate"]
        return {"embedded": embed_and_keep(product, candidate)}


def backtest_cut(settings: Settings, plan: Plan, cut: str, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Recommend as of one cut with every method, look at what users did in the window behind it, and keep both.

    Args:
        settings: all settings.
        plan: what `plan_backtest` gave.
        cut: one of its cuts.
        progress: told the name of each method when it is done.

    Returns:
        The facts of the cut: counts of pairs and targets, the peers' settings, what was refused, gates that failed.
    """
    known = known_at(settings, plan, datetime.fromisoformat(cut))
    window = window_after(settings, plan, known)
    lists, facts, learned = recommend_as_of(settings, plan, cut, window.users, progress)
    pairs, of_lists = judge(plan, known, window, lists, refused=facts["refused"])
    facts = {"cut": cut, **window.counts, **facts, **of_lists}
    tables = {"recommendations": lists, "pairs": pairs}
    if plan["freshness"]:
        tables[FRESHNESS], facts[FRESHNESS] = measure_freshness(settings, plan, known.cut, learned)
        progress(FRESHNESS)
    backtests.write_cut(out_folder(settings, plan), plan["name"], cut, facts, tables)
    return facts


def _surface(settings: Settings, name: str) -> Surface:
    found = {surface.name: surface for surface in settings.surfaces}
    if name not in found:
        raise BadInput(f"there is no surface {name!r}: choose from {', '.join(found)}")
    return found[name]


def known_at(settings: Settings, plan: Plan, cut: datetime) -> Known:
    """What the plan's snapshot says of the time before a cut."""
    snapshot = plan["lake_snapshot"]
    with lake.connect(settings) as connection:
        if not behaviour.has_snapshot(connection, snapshot):
            raise BadInput(f"lake snapshot {snapshot} is no longer kept: start the backtest again")
        return known_as_of(connection, snapshot, cut)


def window_after(settings: Settings, plan: Plan, known: Known) -> Window:
    """Whom to recommend to as of a cut, and what they then did with items that were known."""
    with lake.connect(settings) as connection:
        end = known.cut + duration(plan["every"])
        used = behaviour.used_in_window(connection, plan["lake_snapshot"], known.cut, end)
    return window(known, used, None if plan["show_seen"] else known.had)


def recommend_as_of(
    settings: Settings, plan: Plan, cut: str, users: list[str], progress: Progress = lambda _: None
) -> tuple[pa.Table, dict[str, Any], Learned | None]:
    """What every method recommends to some users as of a cut.

    Args:
        settings: all settings.
        plan: what `plan_backtest` gave; of its cuts nothing is looked at.
        cut: T.
        users: sorted ids, known as of the cut.
        progress: told the name of each method when it is done.

    Returns:
        Rows of `LISTS`, sorted by method (in the plan's order), user and rank; `settings` of each peer, `choice_pairs`
        they were chosen by, `refused` methods with the reason, and `gates` of the product that failed; and, where freshness
        is measured, what the product learned, unless its lists keep the blend.
    """
    learned = None
    known = known_at(settings, plan, datetime.fromisoformat(cut))
    lists: dict[str, pa.Table] = {}
    facts: dict[str, Any] = {"settings": {}, "choice_pairs": 0, "refused": {}, "gates": []}
    if {PRODUCT, VECTORS} & set(plan["methods"]):
        with backtests.scratch(settings) as folder:
            product, state = _run_product(product_settings(settings, plan, folder), plan, known.cut, facts)
            if PRODUCT in plan["methods"]:
                lists[PRODUCT] = _product_lists(product, plan, state, users)
                ranking = load_ranking(product, state, product.surfaces[0]) if plan["freshness"] else None
                if ranking is not None:
                    learned = Learned(ranking, state, text_mean(product, state))
                progress(PRODUCT)
            if VECTORS in plan["methods"]:
                lists[VECTORS] = _lists(
                    plan, known, users, _vector_scores(product, state, known), product.users_per_chunk
                )
                progress(VECTORS)
    others = [name for name in plan["methods"] if name in PEERS]
    if others:
        earlier = known_at(settings, plan, known.cut - duration(plan["every"]))
        if peers.TEXT in others:
            known, earlier = _with_text(settings, plan, known), _with_text(settings, plan, earlier)
        choice = window_after(settings, plan, earlier)
        facts["choice_pairs"] = len(choice.users)
    for name in others:
        if name == REPEATS and not plan["show_seen"]:
            facts["refused"][name] = f"the surface {plan['surface']} shows nothing that a user had already"
        else:
            try:
                setting = _choose(settings, plan, name, earlier, choice)
                scores = PEERS[name].chosen(known.history, setting, plan["seed"])
                lists[name] = _lists(plan, known, users, scores, settings.users_per_chunk)
                facts["settings"][name] = setting
            except peers.CannotFit as reason:
                facts["refused"][name] = str(reason)
        progress(name)
    tables = [
        lists[name].add_column(0, "method", pa.array([name] * lists[name].num_rows, pa.string()))
        for name in plan["methods"]
        if name in lists
    ]
    return pa.concat_tables([LISTS.empty_table(), *tables]), facts, learned


def _with_text(settings: Settings, plan: Plan, known: Known) -> Known:
    """What is known, with the text vectors of the items as of then."""
    if not known.items:
        return known
    with backtests.scratch(settings) as folder:
        product = product_settings(settings, plan, folder)
        candidate = plan_rebuild(product, known.cut, snapshot=plan["lake_snapshot"])["candidate"]
        embed_and_keep(product, candidate)
        state = publications.candidate(product, candidate)
        with lake.connect(settings) as connection:
            items = behaviour.items(connection, plan["lake_snapshot"], known.cut)
        text = centred(*item_text_vectors(product, state, items))
    return replace(known, history=replace(known.history, text=text))


def _run_product(
    product: Settings, plan: Plan, cut: datetime, facts: dict[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """Take the product's own steps from nothing to lists as of a cut; a gate that fails is noted and stops nothing."""
    candidate = plan_rebuild(product, cut, snapshot=plan["lake_snapshot"])["candidate"]
    for step in STEPS:
        try:
            step(product, candidate)
        except GateFailed as failed:
            log.warning("as of %s: %s", cut.isoformat(), failed)
            facts["gates"].append(str(failed))
    state = publications.candidate(product, candidate)
    ranker = artefacts.describe(product, state["artefacts"][Artefact.ranker(plan["show_seen"])])
    facts["ranker"] = {
        name: ranker[name] for name in ("model", "why", "windows", "users", "linear_share", "trial") if name in ranker
    }
    return product, state


def _product_lists(product: Settings, plan: Plan, state: dict[str, Any], users: list[str]) -> pa.Table:
    """The beginnings of the lists that the product keeps."""
    name = VectorTable.recommendations(plan["surface"])
    rows = vectors.read(
        product,
        state["encoder_id"],
        name,
        state["tables"][name]["version"],
        columns=["user_id", "items", "scores"],
        keys=users,
    )
    found = [
        (row["user_id"], rank, item, score)
        for row in rows.to_pylist()
        for rank, (item, score) in enumerate(zip(row["items"][: plan["k"]], row["scores"], strict=False), start=1)
    ]
    columns = list(zip(*found, strict=True)) or [()] * 4
    schema = LISTS.remove(0)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _vector_scores(product: Settings, state: dict[str, Any], known: Known) -> peers.Scores:
    """The product of a user's behavioural vector and an item's: u·p alone."""

    def read(name: str, key: str, column: str, wanted: list[str]) -> NDArray[np.float64]:
        version = state["tables"][name]["version"]
        rows = vectors.read(product, state["encoder_id"], name, version, columns=[key, column])
        own = vectors.vector_array(rows[column])
        place = {value: row for row, value in enumerate(rows[key].to_pylist())}
        found = np.zeros((len(wanted), own.shape[1]))
        there = [row for row, value in enumerate(wanted) if value in place]
        found[there] = own[[place[wanted[row]] for row in there]]
        return found

    of_users = read(VectorTable.USERS, "user_id", "behaviour", known.users)
    of_items = read(VectorTable.ITEMS, "item_id", "right", known.items)
    return lambda rows: of_users[rows] @ of_items.T


def _choose(settings: Settings, plan: Plan, name: str, earlier: Known, choice: Window) -> peers.Setting:
    """The setting of a peer's grid that was best in the window before the cut; the first one where there is no pair in it."""
    peer = PEERS[name]
    if not choice.users:
        return peer.default
    rows = earlier.rows(choice.users)
    best, best_setting = -1.0, peer.default
    for fit in peer.fits:
        for setting, scores in peer.fitted(earlier.history, fit, plan["seed"]):
            listed, _ = _best(plan, earlier, rows, scores, settings.users_per_chunk)
            hits = metrics.hits(choice.targets, listed)
            value = float(metrics.ndcg(hits, np.diff(choice.targets.indptr)).mean())
            if value > best:
                best, best_setting = value, setting
    return best_setting


def _best(
    plan: Plan, known: Known, rows: NDArray[np.int64], scores: peers.Scores, chunk: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    excluded = None if plan["show_seen"] else known.had
    return peers.recommend(scores, rows, excluded, known.available, plan["k"], chunk)


def _lists(plan: Plan, known: Known, users: list[str], scores: peers.Scores, chunk: int) -> pa.Table:
    """The best items of some users as rows."""
    found, values = _best(plan, known, known.rows(users), scores, chunk)
    row, rank = np.nonzero(found >= 0)
    names = pa.array(known.items, pa.string())
    return pa.table(
        [
            pa.array(users, pa.string()).take(pa.array(row)),
            pa.array(rank + 1, pa.int32()),
            names.take(pa.array(found[row, rank])),
            pa.array(values[row, rank]),
        ],
        schema=LISTS.remove(0),
    )


def judge(
    plan: Plan, known: Known, window: Window, lists: pa.Table, *, refused: Collection[str] = ()
) -> tuple[pa.Table, dict[str, Any]]:
    """Metrics of each pair and method, and coverage and novelty of each method's lists, but for those that were refused."""
    row = {user: number for number, user in enumerate(window.users)}
    column = {item: number for number, item in enumerate(known.items)}
    cold = csr_array(window.targets.multiply((known.counts < COLD)[None, :]))
    cold.eliminate_zeros()
    some = np.flatnonzero(np.diff(cold.indptr))
    eligible = int(known.available.sum())
    facts: dict[str, Any] = {"eligible_items": eligible, "coverage": {}, "novelty": {}}
    tables = []
    for method in plan["methods"] if window.users else ():
        if method in refused:
            continue
        own = lists.filter(pc.equal(lists["method"], method))
        listed = np.full((len(row), plan["k"]), -1, dtype=np.int64)
        users = [row[user] for user in own["user_id"].to_pylist()]
        listed[users, own["rank"].to_numpy() - 1] = [column[item] for item in own["item_id"].to_pylist()]
        values = metrics_of(window.targets, listed)
        of_cold = metrics_of(cold[some], listed[some])
        spread = {name: np.full(len(row), np.nan) for name in of_cold}
        for name, value in of_cold.items():
            spread[name][some] = value
        facts["coverage"][method] = metrics.coverage(listed, eligible)
        facts["novelty"][method] = metrics.novelty(listed, known.counts)
        tables.append(
            pa.table(
                {
                    "method": [method] * len(row),
                    "user_id": window.users,
                    "n_history": known.lengths[known.rows(window.users)],
                    **values,
                    **{f"cold_{name}": value for name, value in spread.items()},
                }
            )
        )
    return pa.concat_tables(tables) if tables else pa.table({}), facts
