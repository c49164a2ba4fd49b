"""The landing reader: batches, and rows as text from every kind of file."""

import gzip
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from include.columns import LANDED_TABLES
from include.errors import BadInput
from include.settings import Settings
from include.stores import landing
from include.stores.formats import rows as text_rows
from tests import samples

HOUR = datetime(2024, 3, 1, 5, tzinfo=UTC)
GOOD = b'{"user_id":"u1","event_type":"view","event_ts":"2024-03-01"}\n'


def put(settings: Settings, name: str, content: bytes, *, table: str = "events", hour: datetime = HOUR) -> Path:
    path = landing.folder(settings, table, hour) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(settings: Settings, tmp_path: Path, table: str = "events") -> list[dict[str, Any]]:
    out = tmp_path / "rows"
    counts = landing.read_batches(settings, landing.batches(settings), out, progress=lambda line: None)
    found = []
    for each in LANDED_TABLES:
        one = pq.read_table(out / each).to_pylist()
        assert len(one) == sum(n for (its, _), n in counts.items() if its == each)
        found += one if each == table else []
    return found


# ---------------------------------------------------------------- batches


def test_batches_are_those_with_whole_files_in_the_span(settings: Settings) -> None:
    put(settings, "events.jsonl", GOOD)
    put(settings, "b.jsonl", GOOD)
    put(settings, "items.jsonl", b"", table="items", hour=HOUR.replace(hour=6))
    for name in ("_notes.jsonl", ".hidden.jsonl", "half.jsonl.tmp"):
        put(settings, name, b"x", hour=HOUR.replace(hour=7))
        put(settings, name, b"x")
    found = landing.batches(settings)
    assert [(b.table, b.arrival_hour.hour, [f.name for f in b.files]) for b in found] == [
        ("events", 5, ["b.jsonl", "events.jsonl"]),
        ("items", 6, ["items.jsonl"]),
    ]
    assert [b.table for b in landing.batches(settings, HOUR, HOUR.replace(hour=6))] == ["events"]
    assert [b.table for b in landing.batches(settings, HOUR.replace(hour=6))] == ["items"]


def test_no_landing_folder_is_no_batches(settings: Settings, tmp_path: Path) -> None:
    assert landing.batches(settings) == []
    assert read(settings, tmp_path) == []
    assert all((tmp_path / "rows" / table / "0000.parquet").exists() for table in LANDED_TABLES)


def test_fingerprint_follows_the_files(settings: Settings) -> None:
    path = put(settings, "events.jsonl", GOOD)
    before = landing.batches(settings)[0].fingerprint
    assert landing.batches(settings)[0].fingerprint == before
    path.write_bytes(GOOD * 2)
    changed = landing.batches(settings)[0].fingerprint
    put(settings, "more.jsonl", GOOD)
    assert len({before, changed, landing.batches(settings)[0].fingerprint}) == 3


@pytest.mark.parametrize(
    "stray", ["events/readme.txt", "events/dt=2024-13-01/hr=01/a.jsonl", "events/dt=2024-01-01/hr=24/a.jsonl"]
)
def test_what_would_never_be_read_is_named(settings: Settings, stray: str) -> None:
    path = settings.landing / stray
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD)
    with pytest.raises(BadInput, match=r"is no batch"):
        landing.batches(settings)


# ---------------------------------------------------------------- every kind of file


@pytest.mark.parametrize(
    "suffix", [".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".jsonl.gz", ".jsonl.zst", ".csv.gz", ".csv.zst"]
)
def test_every_kind_gives_the_same_rows(settings: Settings, tmp_path: Path, suffix: str) -> None:
    rows = samples.events(50)
    samples.write(landing.folder(settings, "events", HOUR) / f"events{suffix}", rows)
    found = read(settings, tmp_path)
    assert [row["row_number"] for row in found] == list(range(1, 51))
    assert {row["read_error"] for row in found} == {None}
    assert {(row["source"], row["file"]) for row in found} == {
        ("canonical", f"events/dt=2024-03-01/hr=05/events{suffix}")
    }
    assert {row["arrival_hour"] for row in found} == {HOUR.replace(tzinfo=None)}
    empty = "" if suffix.startswith(".csv") else None
    wanted = [{name: empty if v is None else str(v) for name, v in row.items()} for row in rows]
    assert [json.loads(row["raw"]) for row in found] == wanted


def test_scalars_keep_the_text_that_came(settings: Settings, tmp_path: Path) -> None:
    line = b'{"a":13085.0,"b":1e5,"c":12345678901234567890123,"d":true,"e":null,"f":[1,{"g":false}],"h":"x","i":NaN,"value":NaN}\n'
    put(settings, "events.jsonl", line)
    (row,) = read(settings, tmp_path)
    assert json.loads(row["raw"]) == {
        "a": "13085.0", "b": "1e5", "c": "12345678901234567890123", "d": "true", "e": None,
        "f": ["1", {"g": "false"}], "h": "x", "i": None, "value": "NaN",
    }  # fmt: skip


def test_parquet_types_become_text(settings: Settings, tmp_path: Path) -> None:
    instant = datetime(2024, 3, 1, 12, 30, tzinfo=UTC)
    table = pa.table(
        {
            'odd " name': pa.array([13085.0, None]),
            "zone": pa.array([instant, None], pa.timestamp("us", tz="Europe/Berlin")),
            "flag": pa.array([True, False]),
            "list": pa.array([["a", "b"], None]),
            "struct": pa.array([{"n": 1, "x": [1.5]}, None]),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "category": pa.array(["x", "y"]).dictionary_encode(),
            "bytes": pa.array([b"plain", None]),
            "decimal": pa.array([Decimal("1.50"), None], pa.decimal256(50, 2)),
            "half": pa.array([1.5, None]).cast(pa.float16()),
            "day": pa.array([date(2024, 3, 1), None], pa.date64()),
            "span": pa.array([timedelta(seconds=5), None]),
            "big": pa.array([2**64 - 1, None], pa.uint64()),
            "nothing": pa.nulls(2),
            "Case": pa.array(["upper", "u"]),
            "case": pa.array(["lower", "l"]),
        }
    )
    path = put(settings, "events.parquet", b"")
    pq.write_table(table, path)
    first, second = (json.loads(row["raw"]) for row in read(settings, tmp_path))
    assert first == {
        'odd " name': "13085.0", "zone": "2024-03-01 12:30:00", "flag": "true", "list": ["a", "b"],
        "struct": {"n": "1", "x": ["1.5"]}, "map": {"k": "1"}, "category": "x", "bytes": "plain",
        "decimal": "1.50", "half": "1.5", "day": "2024-03-01", "span": "0:00:05", "big": "18446744073709551615",
        "nothing": None,
        "Case": "upper", "case": "lower",
    }  # fmt: skip
    assert second["flag"] == "false"
    assert all(second[name] is None for name in ('odd " name', "zone", "list", "struct", "map", "bytes"))


def test_repeated_column_names_hide_nothing(settings: Settings, tmp_path: Path) -> None:
    put(settings, "a.csv", b"n,n\n1,2\n")
    pq.write_table(pa.table([[1], [2]], names=["n", "n"]), put(settings, "b.parquet", b""))
    assert [json.loads(row["raw"]) for row in read(settings, tmp_path)] == [{"n": "1", "n_2": "2"}] * 2


def test_a_repeated_columns_number_is_one_that_no_other_column_has(settings: Settings, tmp_path: Path) -> None:
    names = ["n", "n", "n_2", "n", "n_2"]
    put(settings, "a.csv", ",".join(names).encode() + b"\n1,2,3,4,5\n")
    pq.write_table(pa.table([[1], [2], [3], [4], [5]], names=names), put(settings, "b.parquet", b""))
    wanted = {"n": "1", "n_3": "2", "n_2": "3", "n_4": "4", "n_2_2": "5"}
    assert [json.loads(row["raw"]) for row in read(settings, tmp_path)] == [wanted] * 2


def test_source_is_the_prefix_of_the_name(settings: Settings, tmp_path: Path) -> None:
    put(settings, "online-retail--x--y.jsonl", GOOD)
    put(settings, "plain.jsonl", GOOD)
    assert {row["source"] for row in read(settings, tmp_path)} == {"online-retail", "canonical"}


def test_a_ten_megabyte_text_is_a_row(settings: Settings, tmp_path: Path) -> None:
    long = "x" * 10_000_000
    put(settings, "a.jsonl", json.dumps({"text": long}).encode() + b"\n" + GOOD)
    put(settings, "b.csv", f'text,n\n"{long}",1\n'.encode())
    found = read(settings, tmp_path)
    assert [row["read_error"] for row in found] == [None, None, None]
    assert json.loads(found[0]["raw"])["text"] == long == json.loads(found[2]["raw"])["text"]


def test_many_chunks_keep_order_and_numbers(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_rows, "CHUNK_ROWS", 7)
    monkeypatch.setattr(landing, "ROWS_PER_GROUP", 20)
    put(settings, "a.jsonl", b"".join(b'{"n":%d}\n' % n for n in range(100)))
    found = read(settings, tmp_path)
    assert [(row["row_number"], json.loads(row["raw"])["n"]) for row in found] == [(n + 1, str(n)) for n in range(100)]


# ---------------------------------------------------------------- rows that cannot be read


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"user_id":', "malformed_json"),
        (b"user_id,event_type", "malformed_json"),
        (b"[1,2]", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b'{"user_id":"\xff\xfe"}', "invalid_utf8"),
        (b'{"user_id":"\\ud800"}', "invalid_utf8"),
        (b'{"user_id":"a\x00b"}', "nul_byte"),
        (b'{"user_id":"a\\u0000b"}', "nul_byte"),
        (b"[" * 100_000, "malformed_json"),
    ],
)
def test_unreadable_json_line_is_kept_with_its_reason(
    settings: Settings, tmp_path: Path, line: bytes, reason: str
) -> None:
    put(settings, "a.jsonl", GOOD + line + b"\n\n" + GOOD)
    found = read(settings, tmp_path)
    assert [row["read_error"] for row in found] == [None, reason, None]
    came = json.loads(found[1]["raw"])
    assert came == line.decode(errors="backslashreplace").replace("\0", "\\x00")
    # The lake's SQL must be able to read what came.
    assert duckdb.execute("SELECT json_valid(?)", [found[1]["raw"]]).fetchone() == (True,)


def test_an_escaped_backslash_is_no_nul(settings: Settings, tmp_path: Path) -> None:
    put(settings, "a.jsonl", b'{"text":"C:\\\\u0000"}\n')
    assert [row["read_error"] for row in read(settings, tmp_path)] == [None]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a,b", "ragged_csv"),
        (b"a,b,c,d", "ragged_csv"),
        (b"a,\xe9,c", "invalid_utf8"),
        (b"a,\x00,c", "nul_byte"),
        (b'a,"b"x,c', "malformed_csv"),
        (b'a,"never closed,c', "malformed_csv"),
    ],
)
def test_unreadable_csv_line_costs_only_itself(settings: Settings, tmp_path: Path, line: bytes, reason: str) -> None:
    put(settings, "a.csv", b'x,y,z\n1,"two\nlines",3\n' + line + b"\n4,5,6\n7,8,9\n")
    found = read(settings, tmp_path)
    assert [row["read_error"] for row in found] == [None, reason, None, None]
    assert json.loads(found[1]["raw"]) == line.decode(errors="backslashreplace").replace("\0", "\\x00")
    assert json.loads(found[0]["raw"]) == {"x": "1", "y": "two\nlines", "z": "3"}
    assert json.loads(found[3]["raw"]) == {"x": "7", "y": "8", "z": "9"}


def test_a_quote_that_a_later_field_closes_costs_only_its_line(settings: Settings, tmp_path: Path) -> None:
    put(settings, "a.csv", b'x,y,z\n1,"never closed,3\n4,5,6\n7,"\n",9\n')
    found = read(settings, tmp_path)
    assert [row["read_error"] for row in found] == ["ragged_csv", None, None]
    assert json.loads(found[1]["raw"]) == {"x": "4", "y": "5", "z": "6"}
    assert json.loads(found[2]["raw"]) == {"x": "7", "y": "\n", "z": "9"}


def test_unreadable_parquet_values_cost_only_their_rows(settings: Settings, tmp_path: Path) -> None:
    text = pa.array([b"fine", b"\xff\xfe", b"a\x00b"], pa.binary())
    inner = pa.array([["fine"], ["fine"], ["fine"]], pa.list_(pa.string()))
    broken = pa.Array.from_buffers(pa.string(), 3, text.buffers())
    path = put(settings, "a.parquet", b"")
    pq.write_table(pa.table({"text": broken, "list": inner, "n": [1, 2, 3]}), path)
    found = read(settings, tmp_path)
    assert [row["read_error"] for row in found] == [None, "invalid_utf8", "nul_byte"]
    assert [json.loads(row["raw"])["text"] for row in found] == ["fine", "\\xff\\xfe", "a\\x00b"]
    assert [json.loads(row["raw"])["n"] for row in found] == ["1", "2", "3"]


def test_invalid_utf8_within_a_list_costs_only_its_row(settings: Settings, tmp_path: Path) -> None:
    values = pa.Array.from_buffers(pa.string(), 2, pa.array([b"fine", b"\xff"], pa.binary()).buffers())
    path = put(settings, "a.parquet", b"")
    pq.write_table(pa.table({"list": pa.ListArray.from_arrays([0, 1, 2], values)}), path)
    assert [row["read_error"] for row in read(settings, tmp_path)] == [None, "invalid_utf8"]


def test_byte_order_mark_and_windows_line_ends(settings: Settings, tmp_path: Path) -> None:
    put(settings, "a.csv", b"\xef\xbb\xbfuser_id,n\r\nu1,1\r\n\r\nu2,2")
    put(settings, "b.jsonl", b'\xef\xbb\xbf{"user_id":"u3"}\r\n')
    put(settings, "c.jsonl", b"\xef\xbb\xbf")
    assert [json.loads(row["raw"])["user_id"] for row in read(settings, tmp_path)] == ["u1", "u2", "u3"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.csv", "a.jsonl.gz", "a.csv.zst"])
def test_an_empty_file_has_no_rows(settings: Settings, tmp_path: Path, name: str) -> None:
    put(settings, name, b"")
    counts = landing.read_batches(settings, landing.batches(settings), tmp_path / "rows", lambda line: None)
    assert counts == {("events", HOUR): 0}


# ---------------------------------------------------------------- files that cannot be read


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("name", "position"),
    [
        ("events.jsonl.gz", r"past line \d+ \(byte \d+ of \d+\)"),
        ("events.csv.zst", r"past line \d+ \(byte \d+ of \d+\)"),
        ("events.parquet", r"footer, at byte \d+"),
    ],
)
def test_a_file_that_was_cut_off_is_refused_with_its_position(
    settings: Settings, tmp_path: Path, name: str, position: str
) -> None:
    put(settings, "a-good.jsonl", GOOD)
    path = samples.write(landing.folder(settings, "events", HOUR) / name, samples.events(5000))
    cut(path)
    with pytest.raises(BadInput, match=rf"{name}.*{position}.*deliver the file again") as raised:
        landing.read_batches(settings, landing.batches(settings), tmp_path / "rows", lambda line: None)
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "rows").rglob("*.*")) == []


def test_damage_inside_parquet_names_the_row_group(settings: Settings, tmp_path: Path) -> None:
    path = put(settings, "a.parquet", b"")
    pq.write_table(pa.Table.from_pylist(samples.events(3000)), path, row_group_size=1000)
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset or 0
    content[start : start + 64] = b"\xff" * 64
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.parquet: damaged in row group 2 of 3, past row 1000"):
        read(settings, tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xlsx", b"PK", "unknown extension"),
        ("a.parquet.gz", b"x", "unknown extension"),
        ("a", b"x", "unknown extension"),
        ("a.jsonl", b"PAR1xxxx", "name it .parquet"),
        ("a.csv", b"\x1f\x8b\x08x", "add .gz"),
        ("a.jsonl", b"\x28\xb5\x2f\xfdx", "add .zst"),
        ("a.csv", "user_id".encode("utf-16"), "UTF-16"),
        ("a.jsonl.gz", b"not gzip", "past line 0"),
        ("a.jsonl.zst", b"not zstd", "past line 0"),
        ("a.parquet", b"user_id,event_type\n", "no readable Parquet"),
        ("a.json", b'[\n  {"user_id": "u1"}\n]\n', "one JSON array"),
        ("a.json.gz", gzip.compress(b'[{"user_id": "u1"}]', mtime=0), "one JSON array"),
        ("a.csv", b"user\x00id,b\n1,2\n", "line 1, the header"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(
    settings: Settings, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    put(settings, name, content)
    with pytest.raises(BadInput, match=message) as raised:
        read(settings, tmp_path)
    assert name in str(raised.value)


def test_a_file_without_lines_is_refused(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_rows, "LONGEST_LINE", 1000)
    put(settings, "a.jsonl", GOOD + b"x" * 2000)
    with pytest.raises(BadInput, match="line 2 is longer"):
        read(settings, tmp_path)
