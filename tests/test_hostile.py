"""Hostile input, from landed files to lists: every row is accounted for, nothing breaks, and nothing in a text acts."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from include.columns import LANDED_TABLES, VectorTable
from include.errors import BadInput
from include.settings import Settings
from include.steps.clean import clean
from include.steps.gate_lake import gate_lake
from include.steps.land import land
from include.steps.look_up import item_page, user_page
from include.steps.plan import plan_recommend
from include.stores import lake, landing, publications, vectors
from tests import samples
from tests.hostile import HOURS, IMPLAUSIBLE_TIMES, MARKUP, NO_NUMBERS, ODD, TEXTS, UNREADABLE_TIMES, Corpus
from tests.test_path import include_process, lists, published, table

ROWS = 100_000
T = HOURS[-1] + timedelta(hours=1)
COUNTS = ("interaction", "text_only")
BY_ID = {VectorTable.USERS: "user_id", VectorTable.ITEMS: "item_id"}
HISTORIES = {"events": "int_event_history", "items": "int_item_history", "users": "int_user_history"}
ACTS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\u200b]")


def tame(text: str) -> bool:
    """Whether a terminal shows the text as it is written: no control, bidirectional or invisible character."""
    return all(char.isprintable() or char in "\n\u200c\u200d" for char in text)


@dataclass
class Ran:
    """The corpus, a home that it went through, and what the command line said meanwhile."""

    corpus: Corpus
    settings: Settings
    said: list[subprocess.CompletedProcess[str]]
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("hostile")
    corpus = Corpus(ROWS, 20, rounds=250)
    settings = Settings(home=folder / "home [1] *'s=x")
    said = []
    for hour in HOURS:
        into = folder / hour.strftime("%H")
        for file in corpus.files:
            if file.hour == hour:
                file.write(into)
        said.append(include_process(settings.home, "land", str(into), "--arrival", hour.isoformat()))
    said.append(include_process(settings.home, "run"))
    for process in said:
        assert process.returncode == 0, process.stderr[-2000:]
    return Ran(corpus, settings, said, publications.serving(settings))


def found_rows(settings: Settings, table: str) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Outcome, reason, whether a raw is kept, and of events also user, item and time, by file and row."""
    event = "user_id, item_id, event_ts" if table == "events" else "NULL, NULL, NULL"
    with lake.connect(settings) as connection:
        found = connection.execute(
            f"SELECT file, row_number, outcome, reason, raw IS NOT NULL, {event} FROM {HISTORIES[table]}"
        ).fetchall()
    return {row[:2]: row[2:] for row in found}


def test_the_corpus_is_drawn_from_its_seed(ran: Ran) -> None:
    one, again, other = (repr(Corpus(9_000, seed, rounds=12, big=False).files) for seed in (1, 1, 2))
    assert one == again != other
    assert sum(len(file.rows) for file in ran.corpus.files) == ROWS
    assert all(sum(len(file.rows) for file in ran.corpus.files if file.table == name) > 1000 for name in LANDED_TABLES)


@pytest.mark.parametrize("name", LANDED_TABLES)
def test_every_row_has_the_outcome_that_is_due(ran: Ran, name: str) -> None:
    found = found_rows(ran.settings, name)
    wanted = {
        (file.landed, number): row
        for file in ran.corpus.files
        if file.table == name
        for number, row in enumerate(file.rows, start=1)
    }
    assert found.keys() == wanted.keys()
    for place, row in wanted.items():
        outcome, reason, has_raw, user, item, at = found[place]
        assert outcome == row.outcome, (place, row)
        assert has_raw, place
        if outcome == "rejected":
            assert reason == row.reason, (place, row)
        elif row.user is not None:
            assert (user, item) == (row.user, row.item), "an id is kept as it came"
            assert row.at is None or at == row.at.replace(tzinfo=None), (place, row)


def test_the_counts_are_those_of_the_corpus(ran: Ran) -> None:
    assert ran.manifest["rows"] == ran.corpus.counts()
    reasons = ran.manifest["rows"]["events"]["rejected"]
    assert len(reasons) == 17, "each kind of fault is in the corpus"


def test_no_rejected_row_lost_its_content(ran: Ran) -> None:
    with lake.connect(ran.settings) as connection:
        kept, lost, longest = connection.execute(
            "SELECT count(*), count(*) FILTER (raw IS NULL OR raw = '' OR reason IS NULL), max(length(raw)) FROM fct_rejected_rows"
        ).fetchall()[0]
    counts = ran.corpus.counts()
    assert kept == sum(sum(of["rejected"].values()) for of in counts.values())
    assert lost == 0
    assert longest > 10_000_000


def test_texts_are_made_harmless(ran: Ran) -> None:
    with lake.connect(ran.settings) as connection:
        texts = {
            text
            for (text,) in connection.execute(
                """
                SELECT text FROM fct_user_texts UNION SELECT title FROM dim_items UNION SELECT description FROM dim_items
                UNION SELECT unnest(categories) FROM dim_items
                """
            ).fetchall()
            if text is not None
        }
    assert len(texts) > 30
    assert not [text for text in texts if ACTS.search(text)]
    assert not [text for text in texts if re.search(r"<(script|img|b|i|scr)\b", text)]
    assert {"café au lait", "it’s double é", "a < b and b > c", "你好。世界"} <= texts, "and what is no harm stays"
    assert 40_000 < max(map(len, texts)) <= 100_000, "ten megabytes were cut"


def test_vectors_and_lists_are_unharmed(ran: Ran) -> None:
    rows = [row for file in ran.corpus.files if file.table == "events" for row in file.rows]
    counting = [
        row for row in rows if row.user is not None and row.at is not None and row.at < T and row.outcome in COUNTS
    ]
    people = table(ran.settings, ran.manifest, VectorTable.USERS)
    assert set(people["user_id"].to_pylist()) == {row.user for row in counting}
    for column in ("long", "short"):
        assert np.isfinite(vectors.vector_array(people[column])).all()
    known = set(table(ran.settings, ran.manifest, VectorTable.ITEMS)["item_id"].to_pylist())
    assert {row.item for row in counting if row.item is not None} <= known
    had: dict[str, set[str]] = {}
    for row in counting:
        had.setdefault(row.user, set()).add(row.item)
    shown = lists(ran.settings, ran.manifest)
    assert had.keys() <= shown.keys()
    for user, listed in shown.items():
        assert len(listed["items"]) == len(set(listed["items"])) == 50
        assert known.issuperset(listed["items"])
        assert had.get(user, set()).isdisjoint(listed["items"])
        assert np.isfinite(listed["scores"]).all()
        assert listed["scores"] == sorted(listed["scores"], reverse=True)


def test_the_command_line_shows_everything_and_lets_nothing_act(ran: Ran) -> None:
    home = ran.settings.home
    nobody = f"{MARKUP[0]}\x1b[31m\u202enobody"
    said = [
        *ran.said,
        include_process(home, "publications", "show"),
        include_process(home, "publications", "show", "--json"),
        include_process(home, "doctor"),
        include_process(home, "sql", "SELECT user_id, item_id, attributes FROM fct_interactions WHERE user_id NOT LIKE 'u%' LIMIT 40"),
        *(include_process(home, "show", "user", "--top", "50", "--", ODD[n]) for n in (15, 32)),
        include_process(home, "show", "item", "--", ODD[32]),
    ]  # fmt: skip
    assert [process.returncode for process in said] == [0] * len(said), [process.stderr for process in said]
    refused = [
        include_process(home, "show", "user", nobody),
        include_process(home, "land", f"{nobody}.csv"),
        include_process(home, "publications", "show", nobody),
    ]
    assert [process.returncode for process in refused] == [2, 2, 2]
    for process in (*said, *refused):
        assert "Traceback" not in process.stdout + process.stderr
        assert tame(process.stdout), process.args
        assert tame(process.stderr), process.args
    assert json.loads(said[5].stdout)["rows"] == ran.corpus.counts()


def pages(settings: Settings) -> dict[Path, str]:
    """Every page that a browser may open: Data Docs and the reports of publications."""
    return {path: path.read_text("utf-8") for path in settings.reports.rglob("*.html")}


def test_no_page_holds_what_acts(ran: Ran) -> None:
    found = pages(ran.settings)
    assert len(found) > 1
    for path, page in found.items():
        assert not [markup for markup in MARKUP if markup in page], path
        assert tame(page.replace("\t", " ")), path


def test_pages_of_hostile_users_and_items_hold_nothing_that_acts(ran: Ran) -> None:
    settings, manifest = ran.settings, ran.manifest
    users, items = (set(table(settings, manifest, name)[key].to_pylist()) for name, key in BY_ID.items())
    odd = [name for name in (*MARKUP, *ODD) if name in users | items]
    assert any(not name.isprintable() for name in odd)
    assert any("<" in name for name in odd)
    found = [user_page(settings, name) for name in odd if name in users]
    found += [item_page(settings, name) for name in odd if name in items]
    for page in found:
        assert not [markup for markup in MARKUP if markup in page]
        assert tame(page.replace("\t", " "))


# ---------------------------------------------------------------- what has no effect, and what fails


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, dict[str, Any], Path]:
    """A small home with a publication of harmless data."""
    folder = tmp_path_factory.mktemp("shop")
    settings = Settings(home=folder / "home")
    land(settings, samples.canonical(folder / "in", count=900), format="canonical", arrival=samples.FIRST)
    clean(settings)
    gate_lake(settings)
    return settings, published(settings, plan_recommend(settings)), folder


def test_rows_without_effect_change_no_list(shop: tuple[Settings, dict[str, Any], Path]) -> None:
    settings, manifest, folder = shop
    before = lists(settings, manifest)
    known = {"u": [f"u{n}" for n in range(12)], "i": [f"i{n}" for n in range(20)]}
    event = {"user_id": "u1", "item_id": "i1", "event_type": "purchase", "event_ts": "2024-03-01T00:10:00Z"}
    bad = [
        *({**event, "value": value} for value in (*NO_NUMBERS, -1, float("nan"))),
        *({**event, "event_ts": time} for time in (*UNREADABLE_TIMES, *IMPLAUSIBLE_TIMES[:-1])),
        *({**event, "event_type": text} for text in TEXTS),
        *({**event, "user_id": user} for user in ("", "test", "y" * 3000)),
        {**event, "event_type": "refund", "event_ts": "2024-02-01"},
    ]
    again = samples.events(900)[:20]
    samples.write(folder / "more" / "events-0.jsonl", [*bad, *again])
    items = [{"item_id": item, "price": "NaN", "title": MARKUP[0]} for item in known["i"]]
    samples.write(folder / "more" / "items-0.jsonl", [*items, {"item_id": ""}])
    samples.write(folder / "more" / "users-0.jsonl", [{"user_id": user, "created_at": "never"} for user in known["u"]])
    land(settings, folder / "more", format="canonical", arrival=samples.FIRST)
    counts = clean(settings)["rows"]
    gate_lake(settings)

    assert counts["events"]["landed"] == 900 + len(bad) + len(again)
    assert sum(counts["events"]["rejected"].values()) == len(bad) - 1
    assert counts["events"]["duplicates"] == len(again)
    assert counts["events"]["cancelled"] == 1
    assert sum(counts["items"]["rejected"].values()) == 21
    assert sum(counts["users"]["rejected"].values()) == 12
    plan = plan_recommend(settings)
    after = lists(settings, manifest if plan["candidate"] is None else published(settings, plan))
    assert after == before


def test_a_failed_gate_shows_hostile_names_as_text(shop: tuple[Settings, dict[str, Any], Path]) -> None:
    settings, *_ = shop
    hour = samples.FIRST + timedelta(days=2)
    file = landing.folder(settings, "events", hour) / f"{MARKUP[1]}\x1b[31m\u202e--events.jsonl"
    samples.write(file, [{"user_id": "u1", "item_id": MARKUP[1], "event_type": "zap", "event_ts": "x"}] * 300)
    failed = include_process(settings.home, "run")
    file.unlink()

    assert failed.returncode == 1
    assert "lake_rejected" in failed.stderr
    assert "onerror" in failed.stderr, "the name is shown"
    assert tame(failed.stderr)
    assert "Traceback" not in failed.stderr
    assert publications.serving_id(settings) is not None
    hits = [page for page in pages(settings).values() if "onerror" in page]
    assert all(MARKUP[1] not in page and tame(page.replace("\t", " ")) for page in hits)


# ---------------------------------------------------------------- files that change, files without order


def swap(path: Path, contents: list[bytes], stop: threading.Event, put: Callable[[Path, bytes], None]) -> None:
    n = 0
    while not stop.is_set():
        n += 1
        put(path, contents[n % 2])


def rename(path: Path, content: bytes) -> None:
    aside = path.with_name(f"_{path.name}")
    aside.write_bytes(content)
    os.replace(aside, path)


def overwrite(path: Path, content: bytes) -> None:
    with path.open("r+b") as file:
        for start in range(0, len(content), 2**16):
            file.seek(start)
            file.write(content[start : start + 2**16])
            file.flush()


@pytest.mark.parametrize("put", [rename, overwrite])
@pytest.mark.parametrize("into", ["clean", "land"])
def test_a_file_that_changes_while_it_is_read_is_whole_or_refused(
    settings: Settings, tmp_path: Path, put: Callable[[Path, bytes], None], into: str
) -> None:
    line = (
        '{{"event_id":"{n}","user_id":"{user}","item_id":"i","event_type":"view","event_ts":"2024-03-01T00:00:00"}}\n'
    )
    contents = ["".join(line.format(n=n, user=user) for n in range(30_000)).encode() for user in "ab"]
    path = tmp_path / "events.jsonl" if into == "land" else landing.folder(settings, "events", HOURS[0]) / "e.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents[0])
    stop = threading.Event()
    writer = threading.Thread(target=swap, args=(path, contents, stop, put))
    writer.start()
    refused: list[str] = []
    try:
        for attempt in range(4):
            try:
                if into == "land":
                    land(settings, path, format="canonical", arrival=HOURS[0], progress=lambda _: None)
                    read = (landing.folder(settings, "events", HOURS[0]) / "events.jsonl").read_bytes()
                else:
                    landing.read_batches(settings, landing.batches(settings), tmp_path / str(attempt), lambda _: None)
                    read = b"".join(raws(tmp_path / str(attempt)))
            except BadInput as error:
                refused.append(str(error))
                continue
            assert read.count(b'"user_id":"a"') in (0, 30_000)
            assert read.count(b'"user_id":"') == 30_000
    finally:
        stop.set()
        writer.join()
    assert len(refused) == (4 if put is overwrite else 0)
    assert all("written to while it was read" in message for message in refused)


def raws(out: Path) -> list[bytes]:
    return [raw.encode() for raw in pq.read_table(out / "events" / "0000.parquet")["raw"].to_pylist()]


def test_a_file_without_any_order_is_refused_by_name(settings: Settings, tmp_path: Path) -> None:
    ragged = tmp_path / "events.csv"
    ragged.write_text("user_id,event_type,event_ts\n" + "a\nb,c\nd,e,f,g\n" * 5, "utf-8")
    with pytest.raises(BadInput, match=r"events\.csv: none of its 15 rows can be read, from row 1 on"):
        land(settings, ragged, format="canonical")
    assert landing.batches(settings) == []


# ---------------------------------------------------------------- any rows at all

dirt = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from((*ODD[:-1], *TEXTS, *UNREADABLE_TIMES[:-1], *IMPLAUSIBLE_TIMES, *NO_NUMBERS)),
    st.lists(st.text(max_size=3), max_size=2),
    st.dictionaries(st.text(max_size=3), st.floats(), max_size=2),
)
FIELDS = {
    "events": {"event_id": ("e1", "e2", 3), "user_id": ("u1", "u2"), "item_id": ("i1", "i2"), "event_type": ("view", "purchase", "refund", "comment", "rating"), "event_ts": ("2024-03-10T11:00:00+02:00", 1710000000), "value": (1, 2.0), "text": TEXTS, "deleted": (True, False)},
    "items": {"item_id": ("i1", "i2"), "title": TEXTS, "categories": ("a|b", ["a"]), "price": (1,), "published_at": ("2020-01-01",), "available_until": ("2030-01-01",)},
    "users": {"user_id": ("u1", "u2"), "created_at": ("2020-01-01",), "attributes": ({"a": 1},)},
}  # fmt: skip


def dirty(table: str) -> st.SearchStrategy[dict[str, Any]]:
    """Rows that are mostly right, each field of which may be missing or anything."""
    fields = {
        name: st.one_of(st.sampled_from(usual), st.sampled_from(usual), st.sampled_from(usual), dirt)
        for name, usual in FIELDS[table].items()
    }
    return st.fixed_dictionaries({}, optional={**fields, "odd \x1b": dirt})


batch = st.fixed_dictionaries({table: st.lists(dirty(table), max_size=6) for table in LANDED_TABLES})


@hypothesis(
    max_examples=2, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
@given(st.lists(batch, min_size=12, max_size=12))
def test_what_landed_is_the_sum_of_its_outcomes(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[dict[str, Any]]
) -> None:
    settings = Settings(home=tmp_path_factory.mktemp("dirt") / "home")
    landed = dict.fromkeys(LANDED_TABLES, 0)
    for place, tables in enumerate(drawn):
        for name, rows in tables.items():
            landed[name] += len(rows)
            samples.write(landing.folder(settings, name, HOURS[0] + timedelta(hours=place)) / f"{name}.jsonl", rows)

    counts = clean(settings)["rows"]

    for name in LANDED_TABLES:
        outcomes = {**counts[name], "rejected": sum(counts[name]["rejected"].values())}
        assert outcomes.pop("landed") == landed[name] == sum(outcomes.values())
        found = found_rows(settings, name)
        assert len(found) == landed[name]
        assert {row[0] for row in found.values()} <= {
            "interaction",
            "text_only",
            "duplicate",
            "cancelled",
            "rejected",
            "kept",
            "superseded",
        }
