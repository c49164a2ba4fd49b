"""Decide what a run computes: as of which T, from which gated snapshot, and which users and items are touched."""

import hashlib
import logging
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.columns import Artefact, VectorTable
from include.errors import BadInput
from include.models import encoder
from include.models.texts import item_text_hashes
from include.settings import REPOSITORY, Encoder, Settings
from include.steps.plan_texts import plan_texts
from include.steps.publish import finish
from include.stores import artefacts, behaviour, lake, publications, vectors

log = logging.getLogger(__name__)

NOT_LATE = timedelta(0)
AHEAD = timedelta(hours=2)
"""So far may T be ahead of the clock: the end of an hour that has begun, by a clock that is an hour fast."""


def hourly_trends(settings: Settings) -> bool:
    """Whether a surface asks for them; then all have them, for they share one T."""
    return any(surface.trends == "hourly" for surface in settings.surfaces)


@cache
def code_version() -> str:
    """Hash of Tidemark's own source: what a publication was made by, with or without git."""
    digest = hashlib.sha256()
    for file in sorted((REPOSITORY / "include").rglob("*.py")):
        digest.update(file.relative_to(REPOSITORY).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


@lake.attached_once
def plan_update(settings: Settings, until: datetime | None = None) -> dict[str, Any]:
    """Plan to follow what changed since the newest publication.

    It lists the touched users only, against the totals of its base; everyone, and as of T, where a surface asks for hourly trends.

    Args:
        settings: all settings.
        until: T; by default the end of the last gated arrival hour of events, or the base's T where that is later.

    Returns:
        `candidate` (None where nothing changed), `reason`, `as_of`, `lake_snapshot`, `shards` (their numbers), and counts of
        what is touched and of the texts.

    Raises:
        BadInput: nothing is gated yet, T precedes the newest publication's, or that one is of another encoder.
    """
    snapshot = gated(settings)
    base = _base(settings)
    with lake.connect(settings) as connection:
        as_of = until or _default_as_of(connection, snapshot, base)
        if base is not None and as_of < _moment(base["as_of"]):
            raise BadInput(
                f"update goes forward only: publication {base['id']} is as of {base['as_of']}; "
                f"for {as_of.isoformat()} run `python -m include recommend --as-of {as_of.isoformat()}`"
            )
        why = _why_full(settings, connection, base, snapshot)
        if base is not None and why is None and (as_of, snapshot) == publications.knows(base):
            return _nothing(base)
        return _plan(settings, connection, "update", as_of, snapshot, base, why, relist=_relist(settings))


@lake.attached_once
def plan_recommend(
    settings: Settings, as_of: datetime | None = None, *, beyond_data: bool = False, late: timedelta = NOT_LATE
) -> dict[str, Any]:
    """Plan fresh lists for everyone as of T, with totals (popularity, catalogue) as of T.

    Args:
        settings: all settings.
        as_of: T; by default as of an update.
        beyond_data: let T exceed the default T; otherwise the earlier of the two is taken.
        late: by so much a run may come behind updates of a later T, whose T it then takes; behind more it goes back, computes
            everything anew, and does not serve.
    """
    snapshot = gated(settings)
    base = _base(settings)
    with lake.connect(settings) as connection:
        newest = _default_as_of(connection, snapshot, base)
        chosen = newest if as_of is None else as_of if beyond_data else min(as_of, newest)
        if base is not None and chosen < _moment(base["as_of"]) <= chosen + late:
            log.info("publication %s is there already: lists are as of its T, %s", base["id"], base["as_of"])
            chosen = _moment(base["as_of"])
        _refuse_before_events(connection, snapshot, chosen)
        why = _why_full(settings, connection, base, snapshot)
        if base and why is None and chosen < _moment(base["as_of"]):
            why = f"{chosen.isoformat()} precedes the newest publication ({base['as_of']})"
        if (
            base is not None
            and why is None
            and _age_days(settings, base["artefacts"][Artefact.ITEM_FACTORS], chosen)
            > settings.item_factors.max_age_days
        ):
            why = f"the item factors are older than {settings.item_factors.max_age_days:g} days, so they are trained again"
        if base is not None and why is None and _lists_everyone(base, chosen, snapshot):
            return _nothing(base, f"publication {base['id']} already lists everyone as of {base['as_of']}")
        asked = {"as_of": as_of and as_of.isoformat(), "beyond_data": beyond_data, "late_s": late.total_seconds()}
        return _plan(settings, connection, "recommend", chosen, snapshot, base, why, relist="all", asked=asked)


@lake.attached_once
def plan_rebuild(
    settings: Settings, as_of: datetime | None = None, publication: str | None = None, *, snapshot: int | None = None
) -> dict[str, Any]:
    """Plan to compute every vector and list from nothing.

    Args:
        settings: all settings.
        as_of: T; by default the publication's, else as of an update.
        publication: take the snapshot, the encoder, the artefacts and the totals' T from this one.
        snapshot: without a publication, the gated snapshot to read; by default the newest.
    """
    source = publications.manifest(settings, publication) if publication else None
    of_past = snapshot is not None  # of a backtest, whose first cut may precede all
    if source or snapshot is None:
        snapshot = source["lake_snapshot"] if source else gated(settings)
    if source:
        settings = settings.with_encoder(source.get("encoder"))
        _refuse_another_encoder(settings, source)
    base = source or _base(settings)
    line = _line(base)
    with lake.connect(settings) as connection:
        if not behaviour.has_snapshot(connection, snapshot):
            whose = f" of publication {publication}" if publication else ""
            raise BadInput(f"lake snapshot {snapshot}{whose} is no longer kept: it cannot be rebuilt")
        chosen = as_of or (_moment(source["as_of"]) if source else _default_as_of(connection, snapshot, base))
        if not of_past:
            _refuse_before_events(connection, snapshot, chosen)
        return _plan(
            settings,
            connection,
            "rebuild",
            chosen,
            snapshot,
            None,
            "a rebuild was asked for",
            relist="all",
            line=line,
            source=source,
        )


@lake.attached_once
def plan_challenger(settings: Settings, encoder_settings: Encoder, reason: str) -> dict[str, Any]:
    """Plan what serves once more with another encoder, beside it: the same T, snapshot and totals, in a line of its own.

    Args:
        settings: all settings.
        encoder_settings: the challenger's encoder.
        reason: why, for the record.

    Raises:
        BadInput: it cannot be, or need not be: the message says why.
    """
    champion = publications.serving(settings)
    if not reason.strip():
        raise BadInput("say why another encoder should serve: the record of the switch keeps it")
    if publications.pinned(settings):
        raise BadInput(
            f"serving is pinned to {champion['id']} since a rollback: `python -m include publications unpin` first"
        )
    settings = settings.with_encoder(champion.get("encoder"))
    # The champion's encoder need not be what it was: a new Tidemark, or new files, leave the home this way on.
    challenging = settings.with_encoder(encoder_settings.named)
    if encoder.identify(challenging.encoder) == champion["encoder_id"]:
        raise BadInput(f"encoder {champion['encoder_id']} serves already, in publication {champion['id']}")
    challenger = {
        "champion": champion["id"],
        "encoder_id": champion["encoder_id"],
        "encoder": settings.encoder.named,
        "reason": reason.strip(),
    }
    with lake.connect(settings) as connection:
        return _plan(
            challenging,
            connection,
            "challenger",
            _moment(champion["as_of"]),
            champion["lake_snapshot"],
            None,
            f"it challenges {champion['id']}",
            relist="all",
            line=publications.new_name(),
            source=champion,
            challenger=challenger,
        )


@lake.attached_once
def plan_catching_up(settings: Settings, line: str) -> dict[str, Any]:
    """Plan to bring a challenger's line up to the newest gated snapshot, and at least to the T of what serves.

    Returns:
        As `plan_update` does; `candidate` is None where it is there already.
    """
    snapshot, serving, base = gated(settings), publications.serving(settings), publications.newest_of(settings, line)
    if base is None:
        raise BadInput(f"nothing is left of the challenger's line {line}: it was pruned")
    settings = settings.with_encoder(base.get("encoder"))
    _refuse_another_encoder(settings, base)
    with lake.connect(settings) as connection:
        as_of = max(_default_as_of(connection, snapshot, base), _moment(serving["as_of"]))
        why = _why_full(settings, connection, base, snapshot)
        listed_later = _moment(serving["lists"]["as_of"]) > _moment(base["lists"]["as_of"])
        if why is None and not listed_later and (as_of, snapshot) == publications.knows(base):
            return _nothing(base)
        relist, challenger = "all" if listed_later else _relist(settings), base["challenger"]
        return _plan(settings, connection, "update", as_of, snapshot, base, why, relist=relist, challenger=challenger)


def _relist(settings: Settings) -> str:
    """Whom an update lists anew."""
    return "all" if hourly_trends(settings) else "touched"


def _base(settings: Settings) -> publications.Manifest | None:
    """What an update builds on; it serves, also where its run was killed before the switch.

    Raises:
        BadInput: it is of another encoder than the settings name.
    """
    base = publications.newest(settings)
    if base is not None:
        _refuse_another_encoder(settings, base)
        finish(settings, base)
    return base


def _line(base: publications.Manifest | None) -> str | None:
    """The line that a publication goes on with; a home's first where there is none."""
    return None if base is None else publications.line_of(base)


def _refuse_another_encoder(settings: Settings, publication: publications.Manifest) -> None:
    """Do nothing where the settings' encoder is a publication's.

    Raises:
        BadInput: it is another one. Only a challenger that was approved changes the encoder of a home.
    """
    found = encoder.identify(settings.encoder)
    if found != publication["encoder_id"]:
        raise BadInput(
            f"publication {publication['id']} is of encoder {publication['encoder_id']}, and {settings.encoder.source} is "
            f"encoder {found}: their vectors cannot meet. Set back what changed (TIDEMARK_ENCODER__…, or the files), or "
            "switch to it: docs/runbooks/switch_encoder.md"
        )


def _nothing(base: publications.Manifest, reason: str | None = None) -> dict[str, Any]:
    """The plan where there is nothing to do."""
    why = reason or f"nothing changed since publication {base['id']}"
    return {"candidate": None, "reason": why, "publication": base["id"]}


def gated(settings: Settings) -> int:
    """The newest gated snapshot.

    Raises:
        BadInput: there is none yet.
    """
    snapshot = lake.gated_snapshot(settings)
    if snapshot is None:
        raise BadInput(
            f"no snapshot of the lake in {settings.home} has passed the gate yet: land a file and run `python -m include clean`"
        )
    return snapshot


def _default_as_of(
    connection: duckdb.DuckDBPyConnection, snapshot: int, base: publications.Manifest | None
) -> datetime:
    """The end of the last gated arrival hour of events, or T of the base where that is later, as when the newest hours were taken back."""
    if base is None:
        return behaviour.default_as_of(connection, snapshot)
    end, before = behaviour.end_of_events(connection, snapshot), _moment(base["as_of"])
    return before if end is None else max(end, before)


def _refuse_before_events(connection: duckdb.DuckDBPyConnection, snapshot: int, as_of: datetime) -> None:
    """A T at which nobody had done anything is a slip; what it makes would be empty, and pass every gate."""
    first = behaviour.first_event(connection, snapshot)
    if first is not None and as_of <= first:
        raise BadInput(
            f"T {as_of.isoformat()} is before the first event ({first.isoformat()}): there is nothing to list as of then"
        )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _why_full(
    settings: Settings, connection: duckdb.DuckDBPyConnection, base: publications.Manifest | None, snapshot: int
) -> str | None:
    """Why an update cannot build on the base, or None where it can."""
    if base is None:
        return "there is no publication to build on"
    if base["settings_hash"] != settings.hash:
        return f"the settings changed since publication {base['id']}"
    if lacking := set(_kinds(settings, None)) - base["artefacts"].keys():
        return f"publication {base['id']} was made without {', '.join(sorted(lacking))}"
    if not behaviour.has_changes(connection, base["lake_snapshot"], snapshot):
        return f"a lake snapshot since {base['lake_snapshot']}, last consumed by publication {base['id']}, has expired"
    return None


def _lists_everyone(base: publications.Manifest, as_of: datetime, snapshot: int) -> bool:
    """Whether a publication is as of T and S, and so are its lists."""
    own = (base["as_of"], base["lake_snapshot"])
    return own == (base["lists"]["as_of"], base["lists"]["lake_snapshot"]) == (as_of.isoformat(), snapshot)


def _age_days(settings: Settings, artefact: str, as_of: datetime) -> float:
    """Days from the end of an artefact's training span to T; negative where it was trained later."""
    trained = _moment(artefacts.describe(settings, artefact)["trained_until"])
    return (as_of - trained).total_seconds() / 86400


def matching(settings: Settings, encoder_id: str, lists: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What an artefact of each kind must say of itself to be usable with these settings and for these lists."""
    factors = {
        "encoder_id": encoder_id,
        "settings": settings.item_factors.model_dump(exclude={"max_age_days"}),
        "seed": settings.seed,
    }
    learned = factors | {"ranker": settings.ranker.model_dump(exclude={"max_age_days"})}
    of_lists = {"lake_snapshot": lists["lake_snapshot"], "trained_until": lists["as_of"]}
    return {
        Artefact.TEXT_MEAN: {"encoder_id": encoder_id},
        Artefact.ITEM_FACTORS: factors,
        Artefact.SOURCES: learned | of_lists,
        **dict.fromkeys(_ranker_kinds(settings), learned | {"hourly_trends": hourly_trends(settings)}),
    }


def _ranker_kinds(settings: Settings) -> list[str]:
    return sorted({Artefact.ranker(surface.show_seen) for surface in settings.surfaces})


def _max_age_days(settings: Settings, kind: str) -> float:
    own = settings.ranker if kind in _ranker_kinds(settings) else settings.item_factors
    return own.max_age_days


def _kinds(settings: Settings, source: publications.Manifest | None) -> list[str]:
    """Kinds of artefacts that a run needs; a publication of before rankers is rebuilt without one, to the same lists."""
    if source is not None and Artefact.SOURCES not in source["artefacts"]:
        return [Artefact.TEXT_MEAN, Artefact.ITEM_FACTORS]
    return [Artefact.TEXT_MEAN, Artefact.ITEM_FACTORS, Artefact.SOURCES, *_ranker_kinds(settings)]


def _choose_artefacts(
    settings: Settings,
    encoder_id: str,
    as_of: datetime,
    lists: dict[str, Any],
    base: publications.Manifest | None,
    source: publications.Manifest | None,
) -> dict[str, str]:
    """Artefacts to use; those that are missing are trained by the run."""
    if base is not None:
        return _go_on_with(settings, base, lists)
    chosen = {}
    wanted = matching(settings, encoder_id, lists)
    for kind, facts in ((kind, wanted[kind]) for kind in _kinds(settings, source)):
        named = source["artefacts"].get(kind) if source else None
        usable = named is not None and artefacts.describe(settings, named).get("encoder_id", encoder_id) == encoder_id
        if named and usable and _age_days(settings, named, as_of) >= 0:
            chosen[kind] = named
            continue
        newest = artefacts.newest(settings, kind, until=as_of, matching=facts)
        if newest is None:
            continue
        if source is not None or _age_days(settings, newest, as_of) <= _max_age_days(settings, kind):
            chosen[kind] = newest
    return chosen


def _go_on_with(settings: Settings, base: publications.Manifest, lists: dict[str, Any]) -> dict[str, str]:
    """The base's artefacts; for lists of another T neither its sources, which are of their own T, nor an old ranker."""
    chosen = dict(base["artefacts"])
    if any(base["lists"][fact] != lists[fact] for fact in ("as_of", "lake_snapshot")):
        del chosen[Artefact.SOURCES]
        for kind in _ranker_kinds(settings):
            if _age_days(settings, chosen[kind], _moment(lists["as_of"])) >= settings.ranker.max_age_days:
                del chosen[kind]
    return chosen


def _plan(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    kind: str,
    as_of: datetime,
    snapshot: int,
    base: publications.Manifest | None,
    why_full: str | None,
    *,
    relist: str,
    line: str | None = None,
    source: publications.Manifest | None = None,
    challenger: dict[str, Any] | None = None,
    asked: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Plan a run of a line, by default the base's; it builds on the base unless something says why it cannot.

    Raises:
        BadInput: T lies ahead.
    """
    if as_of > datetime.now(UTC) + AHEAD:
        raise BadInput(
            f"T {as_of.isoformat()} lies ahead: what is published goes forward only, so nothing later would take its place "
            "until then; name a time that has come"
        )
    line = line or _line(base)
    if why_full:
        base = None
    follows = publications.newest_of(settings, line)
    encoder_id = encoder.identify(settings.encoder)
    n_items = behaviour.item_count(connection, snapshot, as_of)
    if base is None:
        log.info("everything is computed anew: %s", why_full)
        users: list[str] = []
        items: list[str] = []
        rows = None
    else:
        users, items = _touched(settings, connection, base, snapshot, as_of)
        rows = behaviour.row_changes(connection, base["lake_snapshot"], snapshot)
    counts = _user_counts(connection, base, snapshot, as_of, users)
    context = {"as_of": as_of.isoformat(), "lake_snapshot": snapshot, "item_vectors": None}
    of = source or (base if relist == "touched" else None)
    if of is not None and _moment(of["lists"]["as_of"]) <= as_of:
        context = of["lists"] | ({"item_vectors": None} if of is source else {})
    state: dict[str, Any] = {
        "kind": kind,
        "as_of": as_of.isoformat(),
        "lake_snapshot": snapshot,
        "encoder_id": encoder_id,
        "encoder": settings.encoder.named,
        "settings_hash": settings.hash,
        "code_version": code_version(),
        "line": line,
        **({} if challenger is None else {"challenger": challenger}),
        **({} if asked is None else {"asked": asked}),
        "base": None if base is None else base["id"],
        "follows": None if follows is None else {"publication": follows["id"], "as_of": follows["as_of"]},
        "full": base is None,
        "why_full": why_full,
        "relist": "all" if base is None else relist,
        "lists": context,
        "changed_rows": rows,
        "segment_by": list(settings.cold_start.segment_by),
        "explores": (source or base or {"explores": True}).get("explores", False),
        "kinds": _kinds(settings, source),
        "artefacts": _choose_artefacts(settings, encoder_id, as_of, context, base, source),
        "shards": settings.shards,
        "tables": {},
        "expected_gates": ["vectors", *(f"recommendations_{surface.name}" for surface in settings.surfaces)],
        "gates": [],
        "run": {
            "users": {"touched": counts["total"] if base is None else len(users), **counts},
            "items": {"touched": n_items if base is None else len(items), "total": n_items},
            "seconds": {},
        },
    }
    texts, reused = plan_texts(settings, connection, state, users, items)
    state["run"]["texts"] = {"embedded": texts.num_rows, "reused": reused}
    candidate = publications.new_candidate(
        settings,
        state,
        {"users": users, "items": items},
        relisted=_relisted(settings, connection, state, users),
        texts=texts,
    )
    return {
        "candidate": candidate,
        "reason": why_full or f"what changed since publication {state['base']}",
        "as_of": state["as_of"],
        "lake_snapshot": snapshot,
        "shards": list(range(settings.shards)),
        "users": state["run"]["users"],
        "items": state["run"]["items"],
        "texts": state["run"]["texts"],
    }


def _user_counts(
    connection: duckdb.DuckDBPyConnection,
    base: publications.Manifest | None,
    snapshot: int,
    as_of: datetime,
    touched: list[str],
) -> dict[str, int]:
    """How many users there are, and how many with a history: counted, or the base's and what the touched ones change."""
    if base is None:
        return behaviour.user_counts(connection, snapshot, as_of)
    now = behaviour.user_counts(connection, snapshot, as_of, touched)
    before = behaviour.user_counts(connection, base["lake_snapshot"], _moment(base["as_of"]), touched)
    return {name: int(base["run"]["users"][name]) + now[name] - before[name] for name in now}


def _touched(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    base: publications.Manifest,
    snapshot: int,
    as_of: datetime,
) -> tuple[list[str], list[str]]:
    """Ids of users and items whose vectors may differ from the base's."""
    before, since = base["lake_snapshot"], _moment(base["as_of"])
    items = sorted(behaviour.touched_items(connection, before, snapshot, since, as_of))
    users = behaviour.touched_users(
        connection, before, snapshot, since, as_of, segment_by=settings.cold_start.segment_by
    )
    if items:
        users |= behaviour.users_of_items(
            connection, snapshot, _moved_items(settings, connection, base, snapshot, as_of, items)
        )
    return sorted(users), items


def _moved_items(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    base: publications.Manifest,
    snapshot: int,
    as_of: datetime,
    touched: list[str],
) -> list[str]:
    """Those of the touched items whose text changed, came or went, so that their vector moves."""
    version = base["tables"][VectorTable.ITEMS]["version"]
    old = vectors.read(
        settings, base["encoder_id"], VectorTable.ITEMS, version, columns=["item_id", "text_hash"], keys=touched
    )
    before = dict(zip(old["item_id"].to_pylist(), old["text_hash"].to_pylist(), strict=True))
    new = behaviour.items(connection, snapshot, as_of, touched)
    hashes = item_text_hashes(new, settings.encoder.item_prefix)
    after = dict(zip(new["item_id"].to_pylist(), hashes, strict=True))
    absent = "absent"
    return [item for item in touched if before.get(item, absent) != after.get(item, absent)]


def _relisted(
    settings: Settings, connection: duckdb.DuckDBPyConnection, state: dict[str, Any], touched: list[str]
) -> list[str] | None:
    """Users to list anew: None stands for everyone, otherwise the touched ones and those who hold an item that left."""
    if state["relist"] == "all":
        return None
    base = publications.manifest(settings, state["base"])

    def available(entry: dict[str, Any]) -> set[str]:
        return behaviour.available_items(connection, entry["lake_snapshot"], _moment(entry["as_of"]))

    context = available(state["lists"])
    before, now = available(base) & context, available(state) & context
    if now - before:
        log.info("%d items are available again, so everyone is listed anew", len(now - before))
        return None
    left = before - now
    if not left:
        return touched
    holders: set[str] = set()
    gone = pa.array(sorted(left), pa.string())
    for surface in settings.surfaces:
        name = VectorTable.recommendations(surface.name)
        for batch in vectors.batches(
            settings, state["encoder_id"], name, base["tables"][name]["version"], ["user_id", "items"]
        ):
            owner = np.repeat(np.arange(batch.num_rows), np.asarray(batch["items"].value_lengths()))
            hit = np.asarray(pc.is_in(batch["items"].flatten(), gone))
            holders |= set(batch["user_id"].take(pa.array(np.unique(owner[hit]))).to_pylist())
    log.info("%d items left the catalogue; %d users had one in a list", len(left), len(holders))
    return sorted(set(touched) | holders)
