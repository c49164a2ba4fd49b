"""The formats of published sets: how each lands, and what the cleaning rules of its own make of it."""

import json
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.columns import LANDED_TABLES
from include.commands.behaviour import Format
from include.commands.options import moment
from include.embedded import demo
from include.errors import BadInput
from include.settings import REPOSITORY, Settings
from include.steps.clean import clean
from include.steps.land import land
from include.stores import batches, lake, landing
from include.stores.formats import sources
from include.stores.formats.times import parse
from tests import samples

PAGE = REPOSITORY / "docs" / "bring-your-own-data.md"


def quiet(line: str) -> None:
    """Takes progress and says nothing."""


def landed(settings: Settings, tmp_path: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Source and values of each landed row, by table, as the reader gives them."""
    out = tmp_path / "read"
    landing.read_batches(settings, landing.batches(settings), out, quiet)
    rows = {table: pq.read_table(out / table).to_pylist() for table in LANDED_TABLES}
    return {
        table: [
            (row["source"], {name: value for name, value in json.loads(row["raw"]).items() if value is not None})
            for row in found
        ]
        for table, found in rows.items()
    }


def query(settings: Settings, sql: str) -> list[tuple[Any, ...]]:
    with lake.connect(settings) as connection:
        return connection.execute(sql).fetchall()


def test_the_command_line_knows_every_format() -> None:
    assert [each.value for each in Format] == list(sources.FORMATS) == list(sources.WANTED)


@pytest.mark.parametrize("name", sorted(set(sources.FORMATS) - {"canonical"}))
def test_a_folder_of_something_else_is_refused(settings: Settings, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("x", "utf-8")
    with pytest.raises(BadInput, match=f"nothing of format {name} in it; wanted are"):
        land(settings, tmp_path / "in", format=name, progress=quiet)


# ---------------------------------------------------------------- online retail


def test_landing_and_the_rules_read_the_same_times_of_online_retail(settings: Settings, tmp_path: Path) -> None:
    first = "2010-12-01T08:26:00"
    spellings = {
        "2010-12-01 08:26:00": first,
        "2010-12-01T08:26:00Z": first,
        "2010-12-01T10:26+02:00": first,
        "2010-12-01": "2010-12-01T00:00:00",
        "1291191960": first,
        "1291191960000": first,
        "12/1/2010 8:26": first,
        "12/01/2010 08:26": first,
        "12/01/2010 08:26:00": first,
        " 12/1/2010  8:26 ": first,
        "12/1/10 8:26": first,
        "12/01/10 08:26:00": first,
        "1/31/2010 23:59:59": "2010-01-31T23:59:59",
        "2/29/2012 0:00": "2012-02-29T00:00:00",
        "1995": "1995-01-01T00:00:00",
        "1995.": "1995-01-01T00:00:00",
        "20101231": "2010-12-31T00:00:00",
        "20101231.0": "2010-12-31T00:00:00",
        "20101301": None,
        "0000": None,
        "100000000": "1973-03-03T09:46:40",
        "6/9/99 7:05": "1999-06-09T07:05:00",
        "6/9/69 7:05": "1969-06-09T07:05:00",
        "6/9/1000 7:05": "1000-06-09T07:05:00",
        "2/29/2010 0:00": None,
        "31/1/2010 8:26": None,
        "12/1/2010": None,
        "12/1/0010 8:26": None,
        "12/1/010 8:26": None,
        "12/1/2010 24:00": None,
        "12/1/2010 8:60": None,
        "12/1/2010 8:26:60": None,
        "12/1/2010 8:26 PM": None,
        "12/1/2010T8:26": None,
        "12-1-2010 8:26": None,
        "１２/1/2010 8:26": None,
        "soon": None,
    }
    lines = [
        {
            "Invoice": str(489434 + n), "StockCode": f"85{n:03}A", "Description": "LIGHT", "Quantity": "1",
            "InvoiceDate": text, "Price": "1.25", "Customer ID": "13000", "Country": "France",
        }
        for n, text in enumerate(spellings)
    ]  # fmt: skip
    old = settings.model_copy(update={"earliest_event": "0001-01-01"})
    land(old, samples.write(tmp_path / "retail.csv", lines), format="online-retail", progress=quiet)
    clean(old)
    known = query(old, "SELECT raw ->> 'invoice_date', event_ts FROM int_event_history")
    by_rules = {text: time and time.isoformat() for text, time in known}
    by_landing = {text: (time := parse(text)) and time.replace(tzinfo=None).isoformat() for text in spellings}
    assert by_rules == spellings
    assert by_landing == spellings


# ---------------------------------------------------------------- stackexchange


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_stackexchange_lands_posts_questions_and_comments(settings: Settings, tmp_path: Path, suffix: str) -> None:
    done = land(settings, samples.stackexchange(tmp_path / "in", suffix=suffix), format="stackexchange", progress=quiet)
    assert done["rows"] == {"events": 7, "items": 1, "users": 0}
    found = landed(settings, tmp_path)
    assert {source for rows in found.values() for source, _ in rows} == {"stackexchange"}
    comments = [values for _, values in found["events"] if "PostId" in values]
    assert [values.get("PostParentId") for values in comments] == [None, "1", None]
    assert comments[1] == {
        "Id": "2", "PostId": "2", "UserId": "7", "CreationDate": "2018-03-12T19:05:00.000", "Text": "@eight: thank you",
        "PostParentId": "1",
    }  # fmt: skip
    assert sorted(values["Id"] for _, values in found["events"] if "PostTypeId" in values) == ["1", "2", "3", "4"]
    assert found["items"][0][1]["Body"] == "<p>Is $a &lt; b$?</p>"


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_ids_of_a_dump_that_pandas_made_floats_of_are_the_same_ids(
    settings: Settings, tmp_path: Path, suffix: str
) -> None:
    land(settings, samples.stackexchange(tmp_path / "in", suffix=suffix), format="stackexchange", progress=quiet)
    wanted = landed(settings, tmp_path)
    ids = ("Id", "PostTypeId", "ParentId", "PostId", "OwnerUserId", "UserId")
    for name in ("posts", "comments"):
        rows = pq.read_table(samples.stackexchange(tmp_path / "whole") / f"{name}.parquet").to_pylist()
        floats = [{key: float(v) if key in ids and v else v for key, v in row.items()} for row in rows]
        samples.write(tmp_path / "floats" / f"{name}{suffix}", floats)
    other = Settings(home=tmp_path / "other")
    land(other, tmp_path / "floats", format="stackexchange", progress=quiet)
    assert landed(other, tmp_path) == wanted


def test_comments_alone_find_their_question_in_the_posts_beside_them(settings: Settings, tmp_path: Path) -> None:
    folder = samples.stackexchange(tmp_path / "in")
    land(settings, folder / "comments.parquet", format="stackexchange", arrival="event", progress=quiet)
    found = landed(settings, tmp_path)["events"]
    assert [values.get("PostParentId") for _, values in found] == [None, "1", None]


def test_rows_that_cannot_be_read_land_once_and_odd_ids_do_no_harm(settings: Settings, tmp_path: Path) -> None:
    folder = samples.stackexchange(tmp_path / "in", suffix=".jsonl")
    posts = folder / "posts.jsonl"
    answers = [line for line in posts.read_text("utf-8").splitlines() if '"PostTypeId": "2"' in line]
    odd = json.dumps({"Id": ["2"], "PostTypeId": "2", "ParentId": {"x": "1"}})
    posts.write_text("\n".join([*answers, odd, "{broken"]) + "\n", "utf-8")
    with (folder / "comments.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"Id": "9", "PostId": ["2"], "UserId": "7", "Text": "x"}) + "\n")
    done = land(settings, folder, format="stackexchange", progress=quiet)
    assert done["rows"] == {"events": 8, "items": 0, "users": 0}
    assert done["unreadable"] == {"events": 1, "items": 0, "users": 0}


def test_posts_with_other_columns_are_refused(settings: Settings, tmp_path: Path) -> None:
    samples.write(tmp_path / "in" / "posts.csv", [{"Id": "1", "Title": "x"}])
    with pytest.raises(BadInput, match=r"posts\.csv: no column PostTypeId, ParentId, CreationDate"):
        land(settings, tmp_path / "in", format="stackexchange", progress=quiet)


# ---------------------------------------------------------------- ifdb, amazon-reviews, complete-journey


def test_ifdb_lands_under_canonical_names(settings: Settings, tmp_path: Path) -> None:
    done = land(settings, samples.ifdb(tmp_path / "in"), format="ifdb", progress=quiet)
    assert done["rows"] == {"events": 2, "items": 1, "users": 0}
    assert done["hours"] == ["2008-02-18T12:00:00+00:00"] * 2  # the sentinel date is no arrival
    found = landed(settings, tmp_path)
    assert [values for _, values in found["events"]] == [
        {"user_id": "u1", "item_id": "g1", "event_ts": "2008-02-18 12:30:27", "event_type": "play"},
        {"user_id": "u1", "item_id": "g2", "event_ts": "1980-01-01 00:00:02", "event_type": "play"},
    ]
    assert found["items"] == [
        (
            "canonical",
            {
                "item_id": "g1", "title": "A Change", "creator_id": "A. Plotkin", "genre": "Fantasy",
                "categories": "fox,rain", "published_at": "1995-01-01 00:00:00", "avg_rating": "3.45",
                "description": "Title: A Change. <b>Walking</b>", "kind": "game",
            },
        )
    ]  # fmt: skip


def test_amazon_reviews_of_both_years_are_told_apart_by_their_columns(settings: Settings, tmp_path: Path) -> None:
    samples.amazon_reviews_2018(tmp_path / "in")
    done = land(settings, samples.amazon_reviews_2023(tmp_path / "in"), format="amazon-reviews", progress=quiet)
    assert done["rows"] == {"events": 4, "items": 3, "users": 0}
    assert done["hours"] == ["2014-04-03T00:00:00+00:00", "2020-05-05T14:00:00+00:00"]
    found = landed(settings, tmp_path)
    assert {source for rows in found.values() for source, _ in rows} == {"amazon-reviews"}
    reviews = [values for _, values in found["events"]]
    assert reviews[0]["reviewText"] == "Great<br />knife."
    assert reviews[1] == {"overall": "1.0", "reviewerID": "A2", "asin": "B2", "unixReviewTime": "1396483200"}
    assert reviews[3]["timestamp"] == "1588687728923"
    assert sorted(values.get("price", "none") for _, values in found["items"]) == ["$12.99", "7.5", "none"]


def test_complete_journey_lands_lines_products_and_households(settings: Settings, tmp_path: Path) -> None:
    done = land(settings, samples.complete_journey(tmp_path / "in"), format="complete-journey", progress=quiet)
    assert done["rows"] == {"events": 3, "items": 1, "users": 1}
    assert sorted(Path(name).name for name in done["files"]) == [
        "complete-journey--products.parquet",
        "complete-journey--transactions.parquet",
        "complete-journey-demographics.parquet",
    ]
    found = landed(settings, tmp_path)
    assert found["events"][0] == (
        "complete-journey",
        {
            "household_id": "900", "store_id": "330", "basket_id": "31198570044", "product_id": "1095275", "quantity": "2",
            "sales_value": "0.5", "transaction_timestamp": "2017-01-01 11:53:26",
        },
    )  # fmt: skip
    assert found["users"] == [("canonical", {"user_id": "900", "age": "65+", "kids_count": "0"})]


# ---------------------------------------------------------------- the demo's data


def test_the_demo_lands_complete_journey_and_keeps_data_sets_apart(settings: Settings, tmp_path: Path) -> None:
    folder = samples.complete_journey(tmp_path / "in")
    hours, users = demo.last_events(folder, "complete-journey")
    assert hours == [datetime(2017, 1, 1, 11, tzinfo=UTC), datetime(2017, 1, 1, 12, tzinfo=UTC)]
    assert users == ["900", "901"]
    first, end = demo.land_all(settings, folder, hours[1:], "complete-journey")
    assert (first, end) == (hours[0], hours[1])
    assert len(landed(settings, tmp_path)["events"]) == 3
    with pytest.raises(
        BadInput, match="holds the demo of complete-journey, whose ids would be taken for those of ml-100k"
    ):
        demo.land_all(settings, folder, hours)


# ---------------------------------------------------------------- cleaned


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """One home with the samples of all formats that have staging models of their own, cleaned once; ids do not collide."""
    folder = tmp_path_factory.mktemp("formats")
    settings = Settings(home=folder / "home")
    land(settings, samples.stackexchange(folder / "se"), format="stackexchange", progress=quiet)
    land(settings, samples.amazon_reviews_2018(folder / "a18"), format="amazon-reviews", progress=quiet)
    land(settings, samples.amazon_reviews_2023(folder / "a23"), format="amazon-reviews", progress=quiet)
    land(settings, samples.complete_journey(folder / "cj"), format="complete-journey", progress=quiet)
    clean(settings)
    yield settings
    shutil.rmtree(folder)


def test_each_sample_ends_in_the_outcomes_that_its_rows_deserve(cleaned: Settings) -> None:
    found = query(
        cleaned,
        "SELECT source, event_type, outcome, reason, count(*) FROM int_event_history GROUP BY ALL ORDER BY ALL",
    )
    assert found == [
        ("amazon-reviews", "review", "duplicate", None, 1),
        ("amazon-reviews", "review", "interaction", None, 3),
        ("complete-journey", "purchase", "interaction", None, 2),
        ("complete-journey", "purchase", "rejected", "invalid_value", 1),
        ("stackexchange", "answer", "interaction", None, 1),
        ("stackexchange", "answer", "rejected", "missing_user", 1),
        ("stackexchange", "comment", "interaction", None, 3),
        ("stackexchange", "post", "interaction", None, 1),
        ("stackexchange", None, "rejected", "not_a_contribution", 1),
    ]


def test_what_users_wrote_is_on_the_question_or_product(cleaned: Settings) -> None:
    found = query(cleaned, "SELECT item_id, event_type, text FROM fct_user_texts ORDER BY ALL")
    assert found == [
        ("1", "answer", "Yes."),
        ("1", "comment", "Good one."),
        ("1", "comment", "thank you"),
        ("1", "post", "A question Is $a < b$?"),
        ("99", "comment", "here"),
        ("B1", "review", "Still five stars Great knife."),
        ("C1", "review", "Good Round spoon."),
    ]


def test_items_are_described(cleaned: Settings) -> None:
    found = query(
        cleaned, "SELECT item_id, title, description, categories, price FROM dim_items WHERE described ORDER BY 1"
    )
    assert found == [
        ("1", "A question", "Is $a < b$?", ["q#", "gate"], None),
        ("1095275", "ICE - CRUSHED/CUBED", None, ["GROCERY", "FRZN ICE"], None),
        ("B1", "Knife", "Sharp. Very. Steel", ["Home", "Kitchen & Dining"], 12.99),
        ("C1", "Spoon", "Round", ["Home"], 7.5),
        ("C2", "Spoon", "Round", ["Home"], None),
    ]


def test_fuel_is_bought_once(cleaned: Settings) -> None:
    found = query(
        cleaned,
        "SELECT item_id, value, weight FROM fct_interactions WHERE source = 'complete-journey' ORDER BY value",
    )
    assert found[0] == ("6534178", 1.0, 1.0)
    assert found[1][:2] == ("1095275", 2.0)


@pytest.mark.shared
def test_the_real_stackexchange_and_ifdb_end_as_their_raw_files_say(tmp_path: Path, shared_data: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    land(settings, shared_data / "stackexchange", format="stackexchange", progress=quiet)
    land(settings, shared_data / "ifdb", format="ifdb", progress=quiet)
    rows = clean(settings)["rows"]

    def raw(sql: str) -> Any:
        files = {
            "posts": shared_data / "stackexchange" / "posts.parquet",
            "comments": shared_data / "stackexchange" / "comments.parquet",
            "played": next((shared_data / "ifdb").glob("playedgames*.parquet")),
            "games": next((shared_data / "ifdb").glob("game_docs*.parquet")),
        }
        with duckdb.connect() as connection:
            for name, file in files.items():
                connection.read_parquet(str(file)).create_view(name)
            found = connection.execute(sql).fetchone()
        assert found is not None
        return found[0] if len(found) == 1 else found

    early = raw("SELECT count(*) FROM played WHERE date_added < '1990-01-01'")
    others = raw("SELECT count(*) FROM posts WHERE PostTypeId NOT IN ('1', '2')")
    nobody = raw(
        "SELECT (SELECT count(*) FROM posts WHERE PostTypeId IN ('1', '2') AND OwnerUserId IS NULL)"
        " + (SELECT count(*) FROM comments WHERE UserId IS NULL)"
    )
    every = raw("SELECT (SELECT count(*) FROM posts) + (SELECT count(*) FROM comments) + (SELECT count(*) FROM played)")
    assert (early, others, nobody, every) == (1648, 314, 3, 64_093)
    assert rows["events"] == {
        "landed": every,
        "interactions": every - early - others - nobody,
        "text_only": 0,
        "duplicates": 0,
        "cancelled": 0,
        "rejected": {"implausible_time": early, "missing_user": nobody, "not_a_contribution": others},
    }
    described = raw("SELECT (SELECT count(*) FROM games) + (SELECT count(*) FROM posts WHERE PostTypeId = '1')")
    undated = raw("SELECT count(*) FROM games WHERE published <> '' AND try_cast(published AS TIMESTAMP) IS NULL")
    assert rows["items"] == {
        "landed": described,
        "kept": described - undated,
        "superseded": 0,
        "rejected": {"unusable_time": undated},
    }
    # What was played and has no document is an item all the same.
    undescribed = raw(
        "SELECT count(DISTINCT gameid) FROM played WHERE date_added >= '1990-01-01' AND gameid NOT IN"
        " (SELECT gameid FROM games WHERE published = '' OR try_cast(published AS TIMESTAMP) IS NOT NULL)"
    )
    assert query(settings, "SELECT count(*) FROM dim_items WHERE NOT described") == [(undescribed,)]
    # Every comment is on a question, those on answers too.
    by_question = raw(
        "SELECT list((item, n) ORDER BY item) FROM (SELECT coalesce(posts.ParentId, posts.Id) AS item, count(*) AS n"
        " FROM comments JOIN posts ON comments.PostId = posts.Id WHERE comments.UserId IS NOT NULL GROUP BY ALL)"
    )
    found = query(
        settings,
        "SELECT item_id, count(*) FROM fct_interactions WHERE event_type = 'comment' GROUP BY ALL ORDER BY item_id",
    )
    assert found == by_question
    left = query(settings, r"SELECT text FROM fct_user_texts WHERE regexp_matches(text, '^@\w') OR text LIKE '%<p>%'")
    assert left == []


def test_what_data_frames_write_is_read_as_it_is_meant(settings: Settings, tmp_path: Path) -> None:
    """Missing numbers as NaN, lists as Python shows them, years as numbers."""
    frame = {
        "item_id": ["a", "b", "c"],
        "title": ["A", "B", "C"],
        "categories": ["['Action', \"Children's\"]", "[]", '["x", "y"]'],
        "published_at": [1995.0, float("nan"), 20010203.0],
        "available_until": [2035, 9999, 20351231],
    }
    events = {
        "user_id": [7.0, float("nan"), 7.0],
        "item_id": ["a", "a", "b"],
        "event_type": ["rating"] * 3,
        "value": [4.0, 4.0, float("nan")],
        "event_ts": [1_700_000_000] * 3,
    }
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table(frame), tmp_path / "in" / "items.parquet")
    pq.write_table(pa.table(events), tmp_path / "in" / "events.parquet")
    with (tmp_path / "in" / "events.jsonl").open("w", encoding="utf-8") as file:
        json.dump(
            {"user_id": float("nan")} | {name: values[0] for name, values in events.items() if name != "user_id"}, file
        )
    land(settings, tmp_path / "in", format="canonical", progress=quiet)
    rejected = clean(settings)["rows"]["events"]["rejected"]
    assert rejected == {"missing_user": 2, "invalid_value": 1}
    assert query(settings, "SELECT user_id, item_id FROM fct_interactions") == [("7.0", "a")]
    found = query(settings, "SELECT item_id, categories, published_at, available_until FROM dim_items ORDER BY item_id")
    assert found == [
        ("a", ["Action", "Children's"], datetime(1995, 1, 1), datetime(2035, 1, 1)),
        ("b", [], None, datetime(9999, 1, 1)),
        ("c", ["x", "y"], datetime(2001, 2, 3), datetime(2035, 12, 31)),
    ]


# ---------------------------------------------------------------- the page


def test_the_example_of_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert [language for language, _ in blocks] == ["csv", "csv", "python", "sql", "sql"]
    listens, shows, adapter, model, union = (content for _, content in blocks)
    for name, content in (("listens.csv", listens), ("shows.csv", shows)):
        (tmp_path / "podcasts").mkdir(exist_ok=True)
        (tmp_path / "podcasts" / name).write_text(content, "utf-8")

    # The format, as if it stood at the end of sources.py.
    monkeypatch.setattr(sources, "FORMATS", dict(sources.FORMATS))
    monkeypatch.setattr(sources, "WANTED", dict(sources.WANTED))
    exec(compile(adapter, str(PAGE), "exec"), dict(vars(sources)))  # noqa: S102
    # The staging model, in a project of its own.
    project = tmp_path / "dbt_project"
    shutil.copytree(batches.DBT_PROJECT, project, ignore=shutil.ignore_patterns("target", "logs", "__pycache__"))
    staging = project / "models" / "staging" / "podcasts"
    staging.mkdir()
    (staging / "stg_podcasts__events.sql").write_text(model, "utf-8")
    replace_once(project / "dbt_project.yml", "sources_of_their_own: [", "sources_of_their_own: [podcasts, ")
    first = "select * from {{ ref('stg_canonical__events') }}\n"
    replace_once(project / "models" / "intermediate" / "int_events_unioned.sql", first, first + union)
    monkeypatch.setattr(batches, "DBT_PROJECT", project)

    settings = Settings(home=tmp_path / "home")
    page = PAGE.read_text("utf-8")
    command = re.search(r"include land podcasts/ --format (\S+) --arrival (\S+)", page)
    assert command is not None
    land(settings, tmp_path / "podcasts", format=command[1], arrival=moment(command[2], "--arrival"), progress=quiet)
    rows = clean(settings)["rows"]
    assert rows["events"] == {
        "landed": 5,
        "interactions": 2,
        "text_only": 0,
        "duplicates": 0,
        "cancelled": 0,
        "rejected": {"invalid_value": 1, "missing_user": 1, "unusable_time": 1},
    }
    found = query(
        settings,
        "SELECT user_id, item_id, event_type, strftime(event_ts, '%H:%M'), value, weight FROM fct_interactions",
    )
    assert sorted(found, key=str) == [
        ("anna", "tides", "play", "07:30", 750.0, 1.0),
        ("ben", "tides", "play", "08:00", None, 1.0),
    ]
    assert query(settings, "SELECT item_id, title, categories FROM dim_items ORDER BY item_id") == [
        ("harbours", "Harbours of the world", ["travel"]),
        ("tides", "Tides & currents", ["science", "sea"]),
    ]


def replace_once(path: Path, old: str, new: str) -> None:
    content = path.read_text("utf-8")
    assert content.count(old) == 1
    path.write_text(content.replace(old, new), "utf-8")
