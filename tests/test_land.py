"""`land`: what arrived is put into its batches, whole, as it came."""

import json
import re
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from include.columns import LANDED_TABLES
from include.errors import BadInput
from include.settings import Settings
from include.steps.land import land
from include.stores import landing
from include.stores.formats import staged
from include.stores.formats.progress import Progress
from include.stores.formats.times import parse
from include.stores.lock import writing
from tests import samples


def quiet(line: str) -> None:
    """Takes progress and says nothing."""


def files(settings: Settings) -> dict[str, bytes]:
    return {
        path.relative_to(settings.landing).as_posix(): path.read_bytes()
        for path in settings.landing.rglob("*")
        if path.is_file()
    }


def landed(settings: Settings, tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """What the reader makes of all that landed, by table."""
    out = tmp_path / "read"
    landing.read_batches(settings, landing.batches(settings), out, quiet)
    return {table: pq.read_table(out / table).to_pylist() for table in LANDED_TABLES}


def values(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(row["raw"]) for row in rows if row["read_error"] is None]


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2024-03-01", datetime(2024, 3, 1)),
        ("2024-03-01T10:20", datetime(2024, 3, 1, 10, 20)),
        (" 2024-03-01 10:20:30 ", datetime(2024, 3, 1, 10, 20, 30)),
        ("2024-03-01T10:20:30Z", datetime(2024, 3, 1, 10, 20, 30)),
        ("2024-03-01T10:20:30+02:00", datetime(2024, 3, 1, 8, 20, 30)),
        ("2024-03-01 10:20:30 UTC", datetime(2024, 3, 1, 10, 20, 30)),
        ("1709288430", datetime(2024, 3, 1, 10, 20, 30)),
        ("1709288430.0", datetime(2024, 3, 1, 10, 20, 30)),
        ("1.70928843e9", datetime(2024, 3, 1, 10, 20, 30)),
        ("1709288430000", datetime(2024, 3, 1, 10, 20, 30)),
        ("1995", datetime(1995, 1, 1)),
        ("1995.0", datetime(1995, 1, 1)),
        ("9999", datetime(9999, 1, 1)),
        ("20301231", datetime(2030, 12, 31)),
        ("20301231.0", datetime(2030, 12, 31)),
        ("20301301", None),
        ("20240501123059", datetime(2024, 5, 1, 12, 30, 59)),
        ("20240501250000", datetime(2611, 5, 26, 1, 27, 30)),
        ("32503680000000", datetime(3000, 1, 1)),
        ("0000", None),
        ("12/1/2010 8:26", datetime(2010, 12, 1, 8, 26)),
        ("12/1/10 8:26", datetime(2010, 12, 1, 8, 26)),
        ("12/1/010 8:26", None),
        ("", None),
        ("yesterday", None),
        ("99999999999999999999999", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("NaN", None),
    ],
)
def test_times_are_read_as_they_come(text: str, time: datetime | None) -> None:
    assert parse(text) == (time and time.replace(tzinfo=UTC))


# ---------------------------------------------------------------- canonical, in bulk


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".jsonl.gz", ".csv.zst"])
def test_a_folder_lands_as_it_came_in_the_hour_of_its_last_event(
    settings: Settings, tmp_path: Path, suffix: str
) -> None:
    folder = samples.canonical(tmp_path / "in", suffix=suffix)
    (folder / "README.md").write_text("not data", encoding="utf-8")
    done = land(settings, folder, format="canonical", progress=quiet)
    last = max(row["event_ts"] for row in samples.events())
    hour = datetime.fromisoformat(last).replace(minute=0, second=0).isoformat()
    assert done["rows"] == {"events": 200, "items": 20, "users": 12}
    assert done["hours"] == [hour, hour]
    assert done["files"] == [f"{table}/dt=2024-03-01/hr=05/{table}{suffix}" for table in LANDED_TABLES]
    assert files(settings) == {name: (folder / Path(name).name).read_bytes() for name in done["files"]}
    assert {table: len(rows) for table, rows in landed(settings, tmp_path).items()} == done["rows"]


def test_only_usable_times_say_when_a_file_arrived(settings: Settings, tmp_path: Path) -> None:
    soon = datetime.now(UTC) + timedelta(hours=2)
    times = ["2001-02-03T04:05:06+00:00", "1980-01-01", soon.isoformat(), "never", None]
    rows = [{"user_id": "u", "event_type": "view", "event_ts": time} for time in times]
    done = land(settings, samples.write(tmp_path / "events.jsonl", rows), format="canonical", progress=quiet)
    assert done["files"] == ["events/dt=2001-02-03/hr=04/events.jsonl"]
    assert done["rows"]["events"] == 5


def test_a_time_before_the_earliest_is_none(settings: Settings, tmp_path: Path) -> None:
    rows = [{"user_id": "u", "event_type": "view", "event_ts": "1989-12-31T23:59:59Z"}]
    path = samples.write(tmp_path / "events.jsonl", rows)
    done = land(settings, path, format="canonical", progress=quiet)
    assert done["hours"][0] >= "2024"  # the current hour
    old = settings.model_copy(update={"earliest_event": "1970-01-01"})
    assert land(old, path, format="canonical", progress=quiet)["hours"][0] == "1989-12-31T23:00:00+00:00"


def test_without_a_usable_time_the_current_hour_is_taken(settings: Settings, tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    done = land(settings, samples.write(tmp_path / "items.jsonl", samples.items()), format="canonical", progress=quiet)
    assert before <= datetime.fromisoformat(done["hours"][0]) <= datetime.now(UTC)


def test_the_hour_of_arrival_can_be_given(settings: Settings, tmp_path: Path) -> None:
    at = datetime(2024, 5, 6, 7, 59)
    done = land(settings, samples.canonical(tmp_path / "in"), format="canonical", arrival=at, progress=quiet)
    assert done["files"] == [f"{table}/dt=2024-05-06/hr=07/{table}.parquet" for table in LANDED_TABLES]
    assert (done["replaced"], done["ignored"]) == ([], [])


def test_what_an_earlier_delivery_left_in_other_hours_is_named(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def at(*times: str) -> Path:
        event = samples.events(1)[0]
        return samples.write(tmp_path / "plays.jsonl", [{**event, "event_id": t, "event_ts": t} for t in times])

    def same_name(path: Path, **options: Any) -> list[str]:
        return land(settings, path, format="canonical", table="events", progress=quiet, **options)["same_name"]

    mistyped = at("2024-02-01T10:00", "2024-12-02T10:00")
    assert same_name(mistyped) == []
    assert same_name(at("2024-02-01T10:00", "2024-02-12T10:00")) == ["events/dt=2024-12-02/hr=10/plays.jsonl"]
    assert "plays.jsonl. Where they are an earlier delivery" in caplog.text
    assert same_name(at("2024-02-01T10:00", "2024-02-12T10:30")) == [], "it takes the place of its own"
    assert same_name(at("2024-02-12T11:00", "2024-02-12T12:00")) == [], "a name that is used day by day"
    spread = at("2023-05-01T13:10", "2023-05-01T14:20", "2023-05-01T15:00", "2023-05-01T16:00")
    assert same_name(spread, arrival="event") == []
    without = at("2023-05-01T13:10", "2023-05-01T15:00")
    assert same_name(without, arrival="event") == [], "a delivery of its own, for all that is known"
    assert same_name(without, arrival="event", replace=True) == ["events/dt=2023-05-01/hr=14/plays.jsonl"]


def test_a_part_of_a_file_takes_the_place_of_the_whole_and_the_other_way_round(
    settings: Settings, tmp_path: Path
) -> None:
    path = samples.write(tmp_path / "plays.csv", samples.events(30, hours=3))
    whole, part = "events/dt=2024-03-02/hr=00/plays.csv", "events/dt=2024-03-02/hr=00/plays.jsonl.zst"
    at = datetime(2024, 3, 2)

    def done(**options: Any) -> tuple[list[str], list[str]]:
        found = land(settings, path, format="canonical", table="events", progress=quiet, **options)
        (batch,) = (batch for batch in landing.batches(settings) if batch.arrival_hour == at.replace(tzinfo=UTC))
        assert [file.name for file in batch.files] == [Path(name).name for name in found["files"]]
        return found["files"], found["replaced"]

    later = samples.FIRST + timedelta(hours=1)
    assert done(arrival=at) == ([whole], [])
    assert done(arrival=at, events_from=later) == ([part], [whole])
    assert done(arrival=at) == ([whole], [part])
    moved = land(settings, path, format="canonical", table="events", progress=quiet, events_from=later)
    assert moved["same_name"] == [whole]


def test_a_few_events_far_behind_all_others_are_told_of(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    event = samples.events(1)[0]
    usual = [{**event, "event_id": n, "event_ts": f"2024-03-0{n % 9 + 1}T10:00"} for n in range(200)]
    stray = [{**event, "event_id": n, "event_ts": when} for n, when in (("old", "1995-01-01"), ("odd", "2024-11-30"))]
    path = samples.write(tmp_path / "plays.jsonl", [*usual, *stray])
    options: dict[str, Any] = {"format": "canonical", "table": "events", "progress": quiet}
    assert land(settings, path, **options)["hours"][1] == "2024-11-30T00:00:00+00:00"
    assert "plays.jsonl: 1 of 202 events are of 2024-11-30 or later, 266 days after all others" in caplog.text
    assert "--events-to 2024-03-10 would" in caplog.text
    caplog.clear()
    land(settings, path, **options, events_to=datetime(2024, 3, 10))
    land(settings, path, **options, arrival=datetime(2024, 12, 1))
    weekly = [{**event, "event_id": n, "event_ts": f"2024-0{n // 3 + 1}-{n % 3 * 10 + 1:02}"} for n in range(27)]
    land(settings, samples.write(tmp_path / "seldom.jsonl", weekly), **options)
    two = [{**event, "event_id": n, "event_ts": f"2024-0{n}-01"} for n in (1, 3)]
    land(settings, samples.write(tmp_path / "two.jsonl", two), **options)
    assert "after all others" not in caplog.text


def test_a_file_without_a_usable_time_says_so(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spelt = [{**event, "event_ts": "Wed Mar 22 11:37:04 -0700 2017"} for event in samples.events(3)]
    land(settings, samples.write(tmp_path / "events.jsonl", spelt), format="canonical", progress=quiet)
    assert "events.jsonl: none of 3 times can be used, such as 'Wed Mar 22 11:37:04 -0700 2017'" in caplog.text
    caplog.clear()
    land(
        settings,
        samples.write(tmp_path / "events.jsonl", [*spelt, *samples.events(1)]),
        format="canonical",
        progress=quiet,
    )
    assert "none of" not in caplog.text


def test_items_that_land_long_after_the_last_events_are_told_of(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = samples.canonical(tmp_path / "in")
    items = samples.write(tmp_path / "items.jsonl", samples.items())
    land(settings, items, format="canonical", progress=quiet)
    (last,) = {
        file.split("/", 1)[1][:16] for file in land(settings, folder, format="canonical", progress=quiet)["files"]
    }
    assert "after the last events" not in caplog.text
    land(settings, items, format="canonical", progress=quiet)
    assert "after the last events" in caplog.text
    asked = re.search(r"say --arrival (\S+)", caplog.text)
    assert asked is not None
    caplog.clear()
    found = land(settings, items, format="canonical", arrival=datetime.fromisoformat(asked[1]), progress=quiet)
    assert last in found["files"][0]
    assert "after the last events" not in caplog.text


def test_what_a_folder_holds_besides_is_named(settings: Settings, tmp_path: Path) -> None:
    folder = samples.canonical(tmp_path / "in")
    samples.write(folder / "products.csv", samples.items(3))
    (folder / "readme.txt").write_text("x", "utf-8")
    assert land(settings, folder, format="canonical", progress=quiet)["ignored"] == ["products.csv"]


def test_landing_the_same_again_changes_nothing_and_a_new_content_replaces(settings: Settings, tmp_path: Path) -> None:
    path = samples.write(tmp_path / "events.csv", samples.events(30))
    land(settings, path, format="canonical", progress=quiet)
    (before,) = landing.batches(settings)
    land(settings, path, format="canonical", progress=quiet)
    assert landing.batches(settings) == [before]
    rows = samples.events(30)
    rows[0]["user_id"] = "somebody else"
    done = land(settings, samples.write(path, rows), format="canonical", progress=quiet)
    assert done["replaced"] == done["files"]
    (after,) = landing.batches(settings)
    assert [file.name for file in after.files] == ["events.csv"]
    assert after.fingerprint != before.fingerprint
    assert values(landed(settings, tmp_path)["events"])[0]["user_id"] == "somebody else"


def test_replace_takes_the_place_of_the_table_in_its_batches_only(settings: Settings, tmp_path: Path) -> None:
    at = datetime(2024, 3, 1, 5)
    for name, hour in (("events-a", at), ("events-b", at), ("events-c", at - timedelta(hours=1)), ("items-a", at)):
        rows = samples.items() if name.startswith("items") else samples.events(5)
        path = samples.write(tmp_path / f"{name}.jsonl", rows)
        land(settings, path, format="canonical", arrival=hour, progress=quiet)
    new = samples.write(tmp_path / "events-new.jsonl", samples.events(7))
    land(settings, new, format="canonical", arrival=at, replace=True, progress=quiet)
    assert sorted(files(settings)) == [
        "events/dt=2024-03-01/hr=04/events-c.jsonl",
        "events/dt=2024-03-01/hr=05/events-new.jsonl",
        "items/dt=2024-03-01/hr=05/items-a.jsonl",
    ]


def test_names_that_the_reader_would_ignore_or_misread_are_made_plain(settings: Settings, tmp_path: Path) -> None:
    for name in ("_events.jsonl", "shop--events.jsonl"):
        path = samples.write(tmp_path / name, samples.events(3))
        land(settings, path, format="canonical", table="events", progress=quiet)
    (batch,) = landing.batches(settings)
    assert [file.name for file in batch.files] == ["events.jsonl", "shop-events.jsonl"]
    assert {row["source"] for row in landed(settings, tmp_path)["events"]} == {"canonical"}


# ---------------------------------------------------------------- rows that cannot be read


def test_unreadable_rows_land_too(settings: Settings, tmp_path: Path) -> None:
    path = samples.write(tmp_path / "events.jsonl", samples.events(10))
    path.write_bytes(path.read_bytes() + b'{"user_id": \n[1]\n{"user_id":"\xff"}\n')
    done = land(settings, path, format="canonical", progress=quiet)
    assert (done["rows"]["events"], done["unreadable"]["events"]) == (13, 3)
    found = landed(settings, tmp_path)["events"]
    assert Counter(row["read_error"] for row in found if row["read_error"]) == {
        "malformed_json": 1, "not_an_object": 1, "invalid_utf8": 1,
    }  # fmt: skip


def test_unreadable_rows_survive_being_spread(settings: Settings, tmp_path: Path) -> None:
    path = samples.write(tmp_path / "events.csv", samples.events(40))
    names = path.read_text(encoding="utf-8").partition("\n")[0]
    width = names.count(",") + 1
    broken = [b"too,few", b'"a\n\xff",' + b"," * (width - 2), b"\xff" + b"," * (width - 1), b'{"a":"b"}']
    path.write_bytes(path.read_bytes() + b"\n".join(broken) + b"\n")
    done = land(settings, path, format="canonical", arrival="event", progress=quiet)
    found = landed(settings, tmp_path)["events"]
    bad = [row for row in found if row["read_error"] is not None]
    assert (len(found), len(bad), done["unreadable"]["events"]) == (44, 4, 4)
    assert {row["arrival_hour"] for row in bad} == {max(row["arrival_hour"] for row in found)}
    land(Settings(home=tmp_path / "as it is"), path, format="canonical", progress=quiet)
    as_it_is = [
        row for row in landed(Settings(home=tmp_path / "as it is"), tmp_path / "r")["events"] if row["read_error"]
    ]
    assert [(row["raw"], row["read_error"]) for row in bad] == [(row["raw"], row["read_error"]) for row in as_it_is]
    assert {row["read_error"] for row in bad} == {"ragged_csv", "invalid_utf8"}


def test_an_adapter_lands_unreadable_rows_beside(settings: Settings, tmp_path: Path) -> None:
    path = samples.movielens_100k(tmp_path / "ml") / "ml-100k.inter"
    path.write_text(path.read_text(encoding="utf-8") + "1\t2\n", encoding="utf-8")
    done = land(settings, path, format="movielens", progress=quiet)
    assert [Path(name).name for name in done["files"]] == [
        "movielens-ml-100k.parquet", "movielens-ml-100k.unreadable.jsonl",
    ]  # fmt: skip
    rows = landed(settings, tmp_path)["events"]
    assert (len(rows), [row["raw"] for row in rows if row["read_error"]]) == (151, [json.dumps("1\t2")])
    # A delivery without that row takes it away again.
    samples.movielens_100k(tmp_path / "ml")
    land(settings, path, format="movielens", progress=quiet)
    assert len(landed(settings, tmp_path)["events"]) == 150


# ---------------------------------------------------------------- spreading and cutting


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv.gz"])
def test_arrival_by_event_puts_each_row_into_its_own_hour(settings: Settings, tmp_path: Path, suffix: str) -> None:
    rows = [*samples.events(300), {"user_id": "u", "event_type": "view", "event_ts": "sometime"}]
    path = samples.write(tmp_path / f"events{suffix}", rows[::-1])
    done = land(settings, path, format="canonical", arrival="event", progress=quiet)
    found = landed(settings, tmp_path)["events"]
    assert len(found) == done["rows"]["events"] == 301
    assert done["hours"] == ["2024-03-01T00:00:00+00:00", "2024-03-01T05:00:00+00:00"]
    for row in found:
        time = parse(json.loads(row["raw"])["event_ts"])
        hour = time.replace(minute=0, second=0, tzinfo=None) if time else datetime(2024, 3, 1, 5)
        assert row["arrival_hour"] == hour
    ids = [row.get("event_id") for row in values(found)]
    assert Counter(ids)[None] + Counter(ids)[""] == 1
    assert {each for each in ids if each} == {row["event_id"] for row in rows if "event_id" in row}


def test_spread_rows_read_the_same_as_in_bulk(tmp_path: Path) -> None:
    path = samples.write(tmp_path / "events.parquet", samples.events(100))
    found = []
    for arrival in (None, "event"):
        settings = Settings(home=tmp_path / f"home-{arrival}")
        land(settings, path, format="canonical", arrival=arrival, progress=quiet)  # type: ignore[arg-type]
        found.append(sorted(row["raw"] for row in landed(settings, tmp_path / f"{arrival}")["events"]))
    assert found[0] == found[1]


def test_spread_rows_keep_their_order(settings: Settings, tmp_path: Path) -> None:
    # The last delivered of an identity wins, so order within an hour matters.
    rows = samples.events(100)[::-1]
    path = samples.write(tmp_path / "events.jsonl", rows)
    land(settings, path, format="canonical", arrival="event", progress=quiet)
    found = landed(settings, tmp_path)["events"]
    for hour in {row["arrival_hour"] for row in found}:
        ids = [value["event_id"] for value in values([row for row in found if row["arrival_hour"] == hour])]
        assert ids == [row["event_id"] for row in rows if row["event_id"] in set(ids)]


def test_items_and_users_of_a_spread_folder_are_there_from_its_first_hour(settings: Settings, tmp_path: Path) -> None:
    land(settings, samples.canonical(tmp_path / "in"), format="canonical", arrival="event", progress=quiet)
    others = [batch for batch in landing.batches(settings) if batch.table != "events"]
    assert {(b.table, b.arrival_hour) for b in others} == {("items", samples.FIRST), ("users", samples.FIRST)}


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_span_of_events_is_cut_out_exactly(settings: Settings, tmp_path: Path, suffix: str) -> None:
    rows = samples.events(200)
    rows[100]["event_ts"] = rows[101]["event_ts"] = "2024-03-01T03:00:00+00:00"
    rows.append(dict(rows[0], event_id="no-time", event_ts="sometime"))
    path = samples.write(tmp_path / f"events{suffix}", rows)
    at = datetime(2024, 3, 1, 3, tzinfo=UTC)
    bulk = land(settings, path, format="canonical", events_to=at, progress=quiet)
    before = {row["event_id"] for row in values(landed(settings, tmp_path)["events"])}
    assert bulk["hours"] == ["2024-03-01T02:00:00+00:00"] * 2
    spread = land(settings, path, format="canonical", arrival="event", events_from=at, progress=quiet)
    assert bulk["rows"]["events"] + bulk["left_out"] == 201
    assert spread["rows"]["events"] + spread["left_out"] == 201
    everything = [row["event_id"] for row in values(landed(settings, tmp_path)["events"])]
    assert sorted(everything) == sorted(row["event_id"] for row in rows)  # each once
    early = {row["event_id"] for row in rows if row["event_ts"] < "2024-03-01T03"}
    assert before == early | {"no-time"}


def test_a_span_without_events_makes_no_batch(settings: Settings, tmp_path: Path) -> None:
    path = samples.write(tmp_path / "events.jsonl", samples.events(20))
    done = land(settings, path, format="canonical", events_from=datetime(2030, 1, 1), progress=quiet)
    assert (done["files"], done["hours"], done["left_out"]) == ([], [], 20)
    assert landing.batches(settings) == []


# ---------------------------------------------------------------- movielens


@pytest.mark.parametrize("categories", ["class", "genre"])  # the latter in ml-1m
def test_movielens_100k_lands_renamed(settings: Settings, tmp_path: Path, categories: str) -> None:
    folder = samples.movielens_100k(tmp_path / "ml-100k")
    films = folder / "ml-100k.item"
    films.write_text(films.read_text("utf-8").replace("class:", f"{categories}:"), "utf-8")
    done = land(settings, folder, format="movielens", progress=quiet)
    assert done["rows"] == {"events": 150, "items": 15, "users": 9}
    found = landed(settings, tmp_path)
    user, item, rating, when = (folder / "ml-100k.inter").read_text(encoding="utf-8").splitlines()[1].split("\t")
    assert values(found["events"])[0] == {
        "user_id": user, "item_id": item, "value": rating, "event_ts": when, "event_type": "rating",
    }  # fmt: skip
    first = values(found["items"])[0]
    assert (first["item_id"], first["release_year"], first["categories"]) == ("1", "1991", "Action|Children's")
    assert first["title"].startswith('The "')
    assert values(found["users"])[0] == {
        "user_id": "1", "age": "21", "gender": "F", "occupation": "writer", "zip_code": "01711",
    }  # fmt: skip
    assert {row["source"] for rows in found.values() for row in rows} == {"canonical"}
    last = max(int(value["event_ts"]) for value in values(found["events"]))
    assert {row["arrival_hour"] for rows in found.values() for row in rows} == {
        datetime.fromtimestamp(last, UTC).replace(minute=0, second=0, tzinfo=None)
    }


def test_movielens_latest_lands_ratings_films_and_tags(settings: Settings, tmp_path: Path) -> None:
    done = land(settings, samples.movielens_latest(tmp_path / "ml"), format="movielens", progress=quiet)
    assert done["rows"] == {"events": 4, "items": 2, "users": 0}
    found = landed(settings, tmp_path)
    assert {
        "user_id": "2", "item_id": "1", "text": "pixar, of course", "event_ts": "964990000", "event_type": "tag",
    } in values(found["events"])  # fmt: skip
    assert {
        "user_id": "1", "item_id": "3", "value": "4.5", "event_ts": "964981247", "event_type": "rating",
    } in values(found["events"])  # fmt: skip
    films = values(found["items"])
    assert films[0]["categories"] == "Adventure|Comedy"
    assert films[1] == {"item_id": "3", "title": "Man, The (1995)", "categories": None}


def test_movielens_ratings_can_be_spread_alone(settings: Settings, tmp_path: Path) -> None:
    folder = samples.movielens_100k(tmp_path / "ml-100k")
    done = land(settings, folder / "ml-100k.inter", format="movielens", arrival="event", progress=quiet)
    assert done["rows"] == {"events": 150, "items": 0, "users": 0}
    assert len(done["files"]) == len({batch.arrival_hour for batch in landing.batches(settings)}) >= 5


# ---------------------------------------------------------------- online retail


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_online_retail_lands_lines_and_items(settings: Settings, tmp_path: Path, suffix: str) -> None:
    path = samples.online_retail(tmp_path / f"retail{suffix}")
    done = land(settings, path, format="online-retail", progress=quiet)
    wanted = (
        pq.read_table(path).to_pylist()
        if suffix == ".parquet"
        else [dict(row) for row in duckdb.read_csv(str(path), all_varchar=True).df().to_dict("records")]
    )
    assert sorted(Path(name).name for name in done["files"]) == ["online-retail--retail.parquet"] * 2
    found = landed(settings, tmp_path)
    lines = values(found["events"])
    assert len(lines) == done["rows"]["events"] == len(wanted)
    assert {row["source"] for rows in found.values() for row in rows} == {"online-retail"}
    assert list(lines[0]) == [
        "invoice", "stock_code", "description", "quantity", "invoice_date", "price", "customer_id", "country",
    ]  # fmt: skip
    assert lines[0]["customer_id"] == "13000.0"
    assert lines[0]["invoice"] == "489434"
    pairs = list(dict.fromkeys((line["stock_code"], line["description"]) for line in lines))
    items = values(found["items"])
    assert [(item["stock_code"], item["description"]) for item in items] == pairs
    of_first = [line for line in lines if (line["stock_code"], line["description"]) == pairs[0]]
    assert items[0]["n_lines"] == str(len(of_first))
    assert items[0]["first_invoice_date"] == min(line["invoice_date"] for line in of_first)
    assert items[0]["last_invoice_date"] == max(line["invoice_date"] for line in of_first)


def test_online_retail_spread_names_the_items_of_each_hour(settings: Settings, tmp_path: Path) -> None:
    path = samples.online_retail(tmp_path / "retail.parquet")
    land(settings, path, format="online-retail", arrival="event", progress=quiet)
    found = landed(settings, tmp_path)
    hours = {row["arrival_hour"] for row in found["events"]}
    assert len(hours) > 3
    for hour in hours:
        lines, items = (
            {
                (value["stock_code"], value["description"])
                for value in values([r for r in rows if r["arrival_hour"] == hour])
            }
            for rows in (found["events"], found["items"])
        )
        assert lines == items


@pytest.mark.shared
def test_the_real_online_retail_lands_whole(settings: Settings, tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "online_retail"
    done = land(settings, path, format="online-retail", progress=quiet)
    (file,) = path.glob("*.parquet")
    lines, items = duckdb.execute(
        "SELECT count(*), count(DISTINCT (StockCode, Description)) FROM read_parquet(?)", [str(file)]
    ).fetchall()[0]
    assert lines == 365_825
    assert done["rows"] == {"events": lines, "items": items, "users": 0}
    counts = landing.read_batches(settings, landing.batches(settings), tmp_path / "read", quiet)
    hour = datetime(2010, 9, 30, 20, tzinfo=UTC)
    assert counts == {("events", hour): lines, ("items", hour): items}


# ---------------------------------------------------------------- all or nothing


def test_landing_twice_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = samples.movielens_100k(tmp_path / "ml")
    retail = samples.online_retail(tmp_path / "retail.csv")
    events = samples.write(tmp_path / "events.jsonl", samples.events())
    seen = []
    for name in ("one", "two"):
        settings = Settings(home=tmp_path / name)
        land(settings, folder, format="movielens", progress=quiet)
        land(settings, retail, format="online-retail", arrival="event", progress=quiet)
        land(settings, events, format="canonical", events_to=datetime(2024, 3, 1, 4), progress=quiet)
        seen.append(files(settings))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "events.jsonl",
            b'{"user_id":"u1"}\n{"event_type":"view"}\n',
            r"no column event_ts; expected .* found user_id, event_type",
        ),
        ("events.csv", b"who,what,when\n1,2,3\n", "no column user_id, event_type, event_ts; .* found who, what, when"),
        ("events.csv", b"who,what,when\n", "no column user_id"),
        ("items.csv", b"title\nx\n", "no column item_id"),
        ("users.jsonl", b'{"name":"x"}\n', "no column user_id"),
        ("events.jsonl", b"user_id,event_type\n1,2\n", "none of its 2 rows can be read"),
        ("events.jsonl.gz", b"\x1f\x8b\x08\x00", "past line 0"),
        ("events.parquet", b"PAR1 and no more", "no readable Parquet"),
        ("events.xlsx", b"PK", "unknown extension"),
        ("clicks.csv", b"a\n", "say --table"),
    ],
)
def test_what_cannot_be_landed_is_refused_whole(
    settings: Settings, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message) as raised:
        land(settings, path, format="canonical", progress=quiet)
    assert raised.value.exit_code == 2
    assert str(path) in str(raised.value)
    assert "_incoming" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert files(settings) == {}
    assert list(settings.landing.glob("_incoming*")) == []


def test_one_bad_file_of_a_folder_keeps_all_out(settings: Settings, tmp_path: Path) -> None:
    folder = samples.canonical(tmp_path / "in")
    (folder / "users.parquet").write_bytes(b"PAR1")
    with pytest.raises(BadInput, match=r"users\.parquet"):
        land(settings, folder, format="canonical", progress=quiet)
    assert files(settings) == {}


def test_two_files_that_would_land_under_one_name_are_refused(settings: Settings, tmp_path: Path) -> None:
    for suffix in (".csv", ".jsonl"):
        samples.write(tmp_path / "in" / f"events{suffix}", samples.events(5))
    with pytest.raises(BadInput, match="two files would land as"):
        land(settings, tmp_path / "in", format="canonical", arrival="event", progress=quiet)
    assert files(settings) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "excel"}, "known are canonical, movielens, online-retail"),
        ({"format": "canonical", "table": "clicks"}, "known are events, items, users"),
        ({"format": "movielens", "table": "events"}, "only for --format canonical"),
        ({"format": "movielens"}, "nothing of format movielens"),
        (
            {"format": "canonical", "events_from": datetime(2024, 1, 2), "events_to": datetime(2024, 1, 1)},
            "is not before",
        ),
    ],
)
def test_unusable_options_are_refused(
    settings: Settings, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    path = samples.write(tmp_path / "events.jsonl", samples.events(3))
    with pytest.raises(BadInput, match=message):
        land(settings, path, progress=quiet, **options)
    with pytest.raises(BadInput, match="no such file"):
        land(settings, tmp_path / "absent.csv", format="canonical", progress=quiet)
    assert files(settings) == {}


def test_an_empty_file_is_a_batch_without_rows(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(b"")
    done = land(settings, path, format="canonical", arrival=datetime(2024, 3, 1), progress=quiet)
    assert done["rows"]["events"] == 0
    assert files(settings) == {"events/dt=2024-03-01/hr=00/events.csv": b""}


def test_a_crash_leaves_nothing_half_landed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(staged, "write_parquet", broken)
    with pytest.raises(BadInput, match="disk full"):
        land(settings, samples.movielens_100k(tmp_path / "ml"), format="movielens", progress=quiet)
    assert files(settings) == {}


def test_landings_at_once_spill_into_folders_of_their_own(tmp_path: Path) -> None:
    with staged.bounded(tmp_path) as one, staged.bounded(tmp_path) as two:
        folders = {str(each.sql("SELECT current_setting('temp_directory')").fetchall()) for each in (one, two)}
        assert len(folders) == 2, "DuckDB gives files the same names in each, and ends where another takes them"
        for connection in (one, two):
            connection.execute("SET memory_limit = '40MB'")
            connection.execute("CREATE TABLE t AS SELECT range AS n, md5(range::VARCHAR) AS text FROM range(1_000_000)")
        spilled = [file for file in (tmp_path / "duckdb_tmp").rglob("*") if file.is_file()]
        assert len({file.parent for file in spilled}) == 2
        assert len({file.name for file in spilled}) < len(spilled)
        for connection in (one, two):
            assert connection.sql("SELECT count(*) FROM t WHERE text = md5(n::VARCHAR)").fetchall() == [(1_000_000,)]
    assert list((tmp_path / "duckdb_tmp").iterdir()) == []


def test_the_lock_of_writers_is_free_again(settings: Settings, tmp_path: Path) -> None:
    land(settings, samples.canonical(tmp_path / "in"), format="canonical", progress=quiet)
    with writing(settings):
        assert len(landing.batches(settings)) == 3


# ---------------------------------------------------------------- progress


def test_progress_speaks_in_lines_or_draws_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("include.stores.formats.progress.SECONDS_BETWEEN_LINES", 0.0)
    said: list[str] = []
    with Progress(200, said.append) as shown:
        shown.at("a.csv", 50, 10)
        shown.file_done(100)
        shown.at("b.csv", 50, 20)
    assert said == ["a.csv: 10 rows read, 25 % of all", "b.csv: 20 rows read, 75 % of all"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(200) as shown:
        shown.at("a.csv", 100, 10)
    assert "100/200" in capsys.readouterr().err
