"""A seeded corpus of hostile files that knows what must become of each of its rows.

What is expected of a row is said where the row is made, by hand: no rule of the product is used or repeated here. Rows that
belong together (a purchase and its refund, an event and its second delivery) stay in one file name, in order.
"""

import csv
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests import samples

FIRST = datetime(2024, 3, 10, 12, tzinfo=UTC)
HOURS = (FIRST, FIRST + timedelta(hours=1), FIRST + timedelta(hours=3))
MEGABYTES_10 = 10 * 2**20
MARKUP = ("<script>alert('tide')</script>", "<img src=x onerror=alert('tide')>")

ODD = (
    "13085.0", "007", "-1", "1e5", "NaN", "null", "true", "..", "../../etc/passwd", "o'brien", 'say "hi"', "'; DROP TABLE fct_interactions; --",
    "line\nend", "tab\tin", "return\rin", "\x1b[31mred", "\x07bell", "nine\x9bcsi", "\x7f", "next\x85line", "\u2028sep", "\u202egnp.exe", "\u2066iso\u2069",
    "\ufeffmark", "zero\u200bwidth", "👩\u200d👩\u200d👧", "nai\u0308ve", "na\u00efve", "日本語", "ﷺ", "Z\u0351\u036b\u0343a", *MARKUP, "&lt;b&gt;", "{{ x }}", "{% raw %}",
    "${HOME}", "$(id)", "`id`", "%s%n", "a,b;c|d", "\\", "a\\'b", "%", "_", "*", "[x]", "?", "#", "--", "/", "C:\\x", "h:abc", "[red]rich[/red]", "x" * 2000,
)  # fmt: skip
TEXTS = (
    "A plain remark about the harbour", *MARKUP, "<b>bold <i>and", "a < b and b > c", "&lt;script&gt;alert(1)&lt;/script&gt; quite nice",
    "caf\u00c3\u00a9 au lait", "it\u00e2\u20ac\u2122s double \u00c3\u0192\u00c2\u00a9", "\u00f0\u00d2\u00e9\u00f7\u00e5\u00f4", "\u93c2\u56e8\u6e80", "\x1b[2J\x1b]0;title\x07gone",
    "\u202eevil\u202c text", "zero\u200b\u200bwidth \ufeff", "Z\u0351\u036b\u0343\u036a\u0302a\u036blgo", "😀" * 40, "line\nbreaks\r\nand\ttabs", "'; DROP TABLE dim_items; --",
    "{{ config() }} {% do x %}", "=HYPERLINK(\"http://x\")", "你好。世界", "السلام عليكم", "<scr<script>ipt>alert('tide')</script>", "<!-- <!-- <p>two</p>", "a\u0000".replace("\0", "\x01"),
)  # fmt: skip
UNREADABLE_TIMES = (
    "yesterday", "NaN", "Infinity", "-inf", "2024-13-01", "2024-02-30T00:00:00", "2024-03-01T25:00:00Z", "2024-03-01T10:00:00+99:00", "0000-00-00", "01.03.2024",
    "99999999999999999999", "1e300", "٢٠٢٤-٠٣-٠١", "\u202e2024-03-01", "'; DROP TABLE x; --", "2024-03-01T10:00:00[Europe/Berlin]", "<b>2024-03-01</b>", "2024-W10-1", "x" * 5000,
)  # fmt: skip
IMPLAUSIBLE_TIMES = (
    "1989-12-31T23:59:59Z", "0", "0001-01-01", "1980-01-01 00:00:02", "-1", "631151999", "9999-12-31T23:59:59Z", "2999-01-01", "32503680000000", "2024-03-12T00:00:00Z",
)  # fmt: skip
NO_NUMBERS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e309",
    "abc",
    "1,5",
    "1e13",
    "-1e13",
    "١٢",
    "--1",
    "5 pieces",
    "0x",
    "\u221e",
)
NO_OBJECTS: tuple[tuple[bytes, str], ...] = (
    (b"{broken", "malformed_json"), (b'{"user_id": "u1", "user_id"', "malformed_json"), (b"[" * 100_000, "malformed_json"), (b'{"a":' * 50_000, "malformed_json"),
    (b'["a", "list"]', "not_an_object"), (b"null", "not_an_object"), (b'"text"', "not_an_object"), (b"12", "not_an_object"), (b"NaN", "not_an_object"),
    (b'{"user_id": "\xff\xfe"}', "invalid_utf8"), (b'{"user_id": "caf\xe9"}', "invalid_utf8"), ("{\"user_id\": \"日本\"}".encode("shift_jis"), "invalid_utf8"),
    (b'{"user_id": "\\ud800 half a pair"}', "invalid_utf8"), (b'{"user_id": "a\x00b"}', "nul_byte"), (b'{"user_id": "a\\u0000b"}', "nul_byte"), (b'{"x": {"a\\u0000": 1}}', "nul_byte"),
    (b"<html><script>alert('tide')</script></html>", "malformed_json"), (b"user_id,item_id\x1b[31m", "malformed_json"),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row as it comes (bytes: a whole line), and what must become of it.

    `user`, `item` and `at` (UTC) are what the lake must know of an accepted event; None where this says nothing.
    """

    came: dict[str, Any] | bytes
    outcome: str
    reason: str | None = None
    user: str | None = None
    item: str | None = None
    at: datetime | None = None


@dataclass
class File:
    """A file of one arrival hour; `rows` in its order."""

    table: str
    hour: datetime
    name: str
    rows: list[Row] = field(default_factory=list)

    @property
    def landed(self) -> str:
        return f"{self.table}/{self.hour:dt=%Y-%m-%d/hr=%H}/{self.name}"

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        folder.mkdir(parents=True, exist_ok=True)
        if self.name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist([row.came for row in self.rows], EVENT_TYPES), path)
        else:
            lines = _csv(self.rows, COLUMNS[self.table]) if ".csv" in self.name else _json(self.rows)
            samples.write_bytes(path, lines)
        return path


EVENT_TYPES = pa.schema(
    {
        "event_id": pa.int64(), "user_id": pa.float64(), "item_id": pa.binary(), "event_type": pa.dictionary(pa.int8(), pa.string()),
        "event_ts": pa.timestamp("us", "Asia/Kolkata"), "value": pa.float64(), "odd \" 'name": pa.list_(pa.string()),
    }
)  # fmt: skip
COLUMNS = {
    "events": ["event_id", "user_id", "item_id", "event_type", "event_ts", "value", "text", "session_id", "deleted", "=1+1", "<b>"],
    "items": ["item_id", "kind", "title", "description", "categories", "creator_id", "price", "published_at", "available_from", "available_until", "colour", "x\ny"],
    "users": ["user_id", "created_at", "attributes", "plan", "'; --"],
}  # fmt: skip


def _json(rows: list[Row]) -> bytes:
    lines = [row.came if isinstance(row.came, bytes) else json.dumps(row.came).encode() for row in rows]
    return b"\xef\xbb\xbf" + b"".join(line + (b"\n" if n % 3 else b"\r\n\n  \n") for n, line in enumerate(lines))


def _csv(rows: list[Row], columns: list[str]) -> bytes:
    out = io.BytesIO()
    text = io.TextIOWrapper(out, "utf-8", newline="", write_through=True)
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for row in rows:
        if isinstance(row.came, bytes):
            out.write(row.came + b"\n")
        else:
            writer.writerow(row.came)
    return out.getvalue()


Unit = tuple[str, list[tuple[int, Row]]]
"""Which kind of file can hold it (`any`, `json`, `csv`, `parquet`), and rows with the place of their arrival hour."""


def odd(n: int) -> str:
    """The n-th odd id; no two are the same, and none is longer than an id may be."""
    name = ODD[n % len(ODD)]
    return name if n < len(ODD) else f"{name[:1900]}~{n // len(ODD)}"


class Corpus:
    """`count` rows over events, items and users; the same for the same seed.

    Attributes:
        files: what there is to land; a file name may occur in several hours.
    """

    def __init__(self, count: int, seed: int, *, rounds: int, big: bool = True) -> None:
        self._draw = random.Random(seed)  # noqa: S311
        self._ids = 0
        self._files: dict[tuple[str, int, str], File] = {}
        self._big = big
        for n in range(rounds):
            self._add("items", self._items(n))
            self._add("users", self._users(n))
            self._add("events", self._events(n))
        self._add("items", (("any", [(0, Row(row, "kept"))]) for row in samples.items(rounds * 3)))
        self._add("users", (("any", [(0, Row(row, "kept"))]) for row in samples.users(rounds * 6)))
        self._add("events", self._parquet(rounds))
        self._add("events", self._bot())
        if big:
            self._add("events", self._ten_megabytes())
        had = sum(len(file.rows) for file in self._files.values())
        assert had < count
        self._add("events", self._plain(count - had))
        self.files = list(self._files.values())

    def counts(self) -> dict[str, dict[str, Any]]:
        """What `row_counts` must say."""
        words = {
            "events": {"interaction": "interactions", "text_only": "text_only", "duplicate": "duplicates", "cancelled": "cancelled"},
            "items": {"kept": "kept", "superseded": "superseded"},
            "users": {"kept": "kept", "superseded": "superseded"},
        }  # fmt: skip
        counted: dict[str, dict[str, Any]] = {}
        for table, names in words.items():
            rows = [row for file in self.files if file.table == table for row in file.rows]
            outcomes = Counter(row.outcome for row in rows)
            assert set(outcomes) <= {*names, "rejected"}
            rejected = Counter(row.reason for row in rows if row.outcome == "rejected")
            counted[table] = {
                "landed": len(rows),
                **{name: outcomes[word] for word, name in names.items()},
                "rejected": dict(rejected),
            }
        return counted

    def _add(self, table: str, units: Iterator[Unit]) -> None:
        kinds = {
            "json": ["a.jsonl", "b.jsonl.gz", "c.ndjson.zst"],
            "csv": ["d.csv", "e.csv.gz"],
            "parquet": ["f.parquet"],
        }  # fmt: skip
        kinds["any"] = [*kinds["json"], *kinds["csv"]]
        for kind, rows in units:
            name = f"{table}-{self._draw.choice(kinds[kind])}"
            for hour, row in rows:
                key = (table, hour, name)
                if key not in self._files:
                    self._files[key] = File(table, HOURS[hour], name)
                self._files[key].rows.append(row)

    def _id(self) -> str:
        self._ids += 1
        return f"e{self._ids}"

    def _time(self) -> tuple[Any, datetime]:
        """A time some way before the first hour, in one of the ways that times come in."""
        at = FIRST - timedelta(seconds=self._draw.randrange(20 * 86400))
        zone = timedelta(hours=5, minutes=30)
        here, seconds = f"{at:%Y-%m-%dT%H:%M:%S}", int(at.timestamp())
        ways = (
            here, f"{here}Z", f"{here}.000", f" {here.lower()}z ", f"{here.replace('T', ' ')} UTC", f"{at + zone:%Y-%m-%dT%H:%M:%S}+05:30", f"{at - zone:%Y-%m-%d %H:%M:%S},0-0530",
            seconds, float(seconds), str(seconds), seconds * 1000, f"{seconds}000",
        )  # fmt: skip
        return self._draw.choice(ways), at

    def _event(self, user: str, item: str | None, kind: str = "view", **more: Any) -> Row:
        """An event that counts, unless what `more` says (also of the outcome) is otherwise."""
        came, at = self._time()
        values = {"event_id": self._id(), "user_id": user, "item_id": item, "event_type": kind, "event_ts": came}
        wanted = {"outcome": "interaction", "reason": None, "at": at}
        wanted |= {name: more.pop(name) for name in list(more) if name in wanted}
        if wanted["reason"] is not None:
            wanted["outcome"] = "rejected"
        values |= more
        counts = wanted["outcome"] in ("interaction", "text_only")
        return Row(
            {k: v for k, v in values.items() if v is not None},
            **wanted,
            user=user if counts else None,
            item=item if counts else None,
        )

    def _events(self, n: int) -> Iterator[Unit]:  # noqa: PLR0915
        draw = self._draw
        user, item = odd(draw.randrange(600)), odd(draw.randrange(400))
        event = self._event

        def one(kind: str, row: Row, hour: int = 0) -> Unit:
            return kind, [(hour, row)]

        # Numbers, times, ids.
        yield one("any", event(user, item, "purchase", value=draw.choice(NO_NUMBERS), reason="invalid_value"))
        yield one(
            "json",
            event(
                user,
                item,
                "rating",
                value=draw.choice((float("nan"), float("inf"), float("-inf"))),
                reason="invalid_value",
            ),
        )
        yield one("any", event(user, item, "purchase", value=draw.choice((-3, -0.5, 0)), reason="invalid_value"))
        yield one("any", event(user, item, "play", value=-60, reason="invalid_value"))
        yield one("any", event(user, item, "rating", value=draw.choice((-5, 1e9, 0))))
        yield one("any", event(user, item, "view", event_ts=draw.choice(UNREADABLE_TIMES), reason="unusable_time"))
        yield one("any", event(user, item, "view", event_ts=draw.choice(("", "  ")), reason="unusable_time"))
        yield one("any", event(user, item, "view", event_ts=draw.choice(IMPLAUSIBLE_TIMES), reason="implausible_time"))
        ahead = FIRST + timedelta(hours=25)
        yield one("any", event(user, item, "view", event_ts=ahead.isoformat(), at=ahead))
        yield one(
            "any",
            event(user, item, "view", event_ts=(ahead + timedelta(seconds=1)).isoformat(), reason="implausible_time"),
        )
        yield one("any", event(user, item), 2)  # late
        yield one("any", event(user, f"undescribed {item[:1000]}", "click"))
        yield one("any", event(f"unknown {user[:1000]}", item, " LIKE "))
        yield one("any", event("y" * 2001, item, reason="oversized_id"))
        yield one("any", event(user, "y" * 2001, reason="oversized_id"))
        yield one("any", event(draw.choice(("", " \t ")), item, reason="missing_user"))
        yield one("any", event(user, draw.choice(("", "\t")), reason="missing_item"))
        yield one("any", event("test", item, reason="test_traffic"))
        yield one(
            "any",
            event(
                user, item, draw.choice(("", "zap", "vıew", "view;", "<b>view</b>", "'")), reason="unknown_event_type"
            ),
        )
        yield one("any", event(user, item, deleted="maybe", reason="invalid_deleted"))
        number = draw.choice((13085, 10**30))
        yield one("json", Row({"event_id": self._id(), "user_id": 13085.0, "item_id": number, "event_type": "view", "event_ts": "2024-03-01"}, "interaction", None, "13085.0", str(number), datetime(2024, 3, 1, tzinfo=UTC)))  # fmt: skip
        yield one("json", event(user, item, user_id=draw.choice(([user], {"id": user}, [])), reason="wrong_type"))
        yield one("json", event(user, item, text={"html": "x"}, reason="wrong_type"))
        # Texts and unknown columns.
        text = draw.choice(TEXTS)
        yield one("any", event(user, item, "comment", text=text))
        yield one("any", event(user, None, "query", text=f"{text} and more", outcome="text_only"))
        yield one(
            "any",
            event(
                user,
                None,
                "query",
                text=draw.choice(("<script>x</script>", "\u200b\u202e", " ", "<!-- -->")),
                reason="missing_item",
            ),
        )
        odd_columns = {"=1+1": draw.choice(TEXTS), "<b>": draw.choice(ODD)}
        yield one("any", event(user, item, **odd_columns))
        nested: dict[str, Any] = {
            "__proto__": {"x": [None, {"deep": [[[[1]]]]}]},
            "": 1,
            "$.user_id": "x",
            "USER_ID": "x",
            "a.b": float("nan"),
            "k" * 5000: 1,
            "'": "'",
        }
        yield one("json", event(user, item, **nested))
        yield one(
            "json",
            event(user, item, attributes=draw.choice(("{broken", [1], {"user_id": "x", "\x1b": "y"}, '{"a":1,"a":2}'))),
        )
        yield one("json", Row(*_line(*NO_OBJECTS[n % len(NO_OBJECTS)])))
        yield one("csv", Row(*_line(*draw.choice((
            (b"e,u,i,view,2024-03-01", "ragged_csv"), (b"e,u,i,view,2024-03-01,,,,,,,,,", "ragged_csv"), (b"x", "ragged_csv"), (b'e,u,"i"x,view,2024-03-01,,,,,,', "malformed_csv"),
            (b"e,\xff,i,view,2024-03-01,,,,,,", "invalid_utf8"), (b"e,a\x00b,i,view,2024-03-01,,,,,,", "nul_byte"), (b'e,u,"never closed,view,2024-03-01,,,,,,', "malformed_csv"),
        )))))  # fmt: skip
        # The same event again: at once, in one batch, in two, without an id.
        again = event(user, item)
        yield "any", [(0, _as(again, "duplicate")), (0, again)]
        again = event(user, item)
        yield "any", [(0, _as(again, "duplicate")), (2, again)]
        nameless = Row(
            {"user_id": user, "item_id": item, "event_type": "view", "event_ts": f"2024-03-02T00:00:00.{n:06}"},
            "interaction",
            None,
            user,
            item,
        )
        yield "any", [(0, _as(nameless, "duplicate")), (1, _as(nameless, "duplicate")), (1, nameless)]
        # Reversals and withdrawals.
        amount = 1000 + n
        for hours, order in (((0, 0), (1, 2)), ((1, 0), (1, 2)), ((0, 2), (1, 2))):
            thing = f"reversed {n} {hours}"
            yield "any", [
                (hours[0], event(user, thing, "purchase", value=amount, event_ts=f"2024-03-0{order[0]}", outcome="cancelled")),
                (hours[1], event(user, thing, "refund", value=-amount, event_ts=f"2024-03-0{order[1]}", outcome="cancelled")),
            ]  # fmt: skip
        early, thing = datetime(2024, 3, 2, tzinfo=UTC), f"refunded before it was bought {n}"
        yield one("any", event(user, thing, "refund", value=1, event_ts="2024-03-01", outcome="cancelled"))
        yield one("any", event(user, thing, "purchase", value=1, event_ts="2024-03-02", at=early))
        yield one("any", event(user, item, "unlike", outcome="cancelled", item_id=f"never liked {n}"))
        gone = event(user, item)
        withdrawn = Row({"event_id": gone.came["event_id"], "deleted": "true"}, "cancelled")
        yield "any", [(0, _as(gone, "duplicate")), (1, withdrawn)]
        yield "any", [(0, Row({"event_id": self._id(), "deleted": True}, "cancelled"))]

    def _items(self, n: int) -> Iterator[Unit]:
        draw = self._draw
        item = {"item_id": odd(2 * n), "kind": draw.choice(ODD[:40]), "title": draw.choice(TEXTS), "description": draw.choice(TEXTS), "categories": f"{draw.choice(samples.WORDS)}|{draw.choice(TEXTS)}", "price": 3.5}  # fmt: skip
        other = {"item_id": odd(2 * n + 1)}  # without any text

        def one(kind: str, values: dict[str, Any], reason: str | None = None) -> Unit:
            return kind, [(0, Row(values, "rejected" if reason else "kept", reason))]

        yield one("any", item)
        yield one("any", other)
        yield (
            "any",
            [
                (0, Row({"item_id": f"twice {n}", "title": "one"}, "superseded")),
                (0, Row({"item_id": f"twice {n}", "title": "two"}, "kept")),
            ],
        )
        same = {"item_id": f"again {n}", "title": draw.choice(TEXTS), "price": 1}
        yield "any", [(0, Row(same, "kept")), (1, Row(same, "superseded")), (2, Row({**same, "price": 2}, "kept"))]
        never = {"item_id": f"not before 2999 {n}", "published_at": "2999-01-01"}
        yield (
            "any",
            [
                (0, Row(never, "superseded")),
                (1, Row({**never, "published_at": "2020-01-01T00:00:00+14:00", "title": "now"}, "kept")),
            ],
        )
        bad = {"item_id": f"bad {n}"}
        yield one("any", {**bad, "price": draw.choice((*NO_NUMBERS, -1, -0.01))}, "invalid_price")
        yield one("json", {**bad, "price": draw.choice((float("nan"), float("inf"), float("-inf")))}, "invalid_price")
        when = draw.choice(("published_at", "available_from", "available_until"))
        yield one("any", {**bad, when: draw.choice(UNREADABLE_TIMES)}, "unusable_time")
        yield one("any", {"item_id": draw.choice(("", "  ")), "title": "nameless"}, "missing_item")
        yield one("any", {"item_id": "y" * 2001}, "oversized_id")
        yield one("json", {**bad, "categories": {"a": 1}}, "wrong_type")
        yield one("json", {**bad, "title": ["a", "b"]}, "wrong_type")
        yield one(
            "json",
            {
                "item_id": f"listed {n}",
                "categories": [None, "", *draw.sample(TEXTS, 2), 1, float("nan")],
                "__proto__": [1],
            },
        )
        line, reason = NO_OBJECTS[n % len(NO_OBJECTS)]
        yield "json", [(0, Row(line, "rejected", reason))]
        yield "csv", [(0, Row(b"only,three,fields", "rejected", "ragged_csv"))]

    def _users(self, n: int) -> Iterator[Unit]:
        draw = self._draw

        def one(kind: str, values: dict[str, Any] | bytes, reason: str | None = None) -> Unit:
            return kind, [(0, Row(values, "rejected" if reason else "kept", reason))]

        yield one(
            "any",
            {
                "user_id": odd(n),
                "created_at": draw.choice((None, "0001-01-01", "9999-12-31T23:59:59.999999", 0, -86400)),
                "'; --": draw.choice(TEXTS),
            },
        )
        twice = {"user_id": f"twice {n}"}
        yield "any", [(0, Row(twice, "superseded")), (0, Row(twice, "superseded")), (2, Row(twice, "kept"))]
        yield one("any", {"user_id": "bad", "created_at": draw.choice(UNREADABLE_TIMES)}, "unusable_time")
        yield one("any", {"user_id": " ", "created_at": "2020-01-01"}, "missing_user")
        yield one("any", {"user_id": "TEST", "attributes": '{"a": NaN}'}, "test_traffic")
        yield one("any", {"user_id": "y" * 2001}, "oversized_id")
        yield one("json", {"user_id": {"$ne": None}}, "wrong_type")
        line, reason = NO_OBJECTS[n % len(NO_OBJECTS)]
        yield one("json", line, reason)

    def _parquet(self, count: int) -> Iterator[Unit]:
        """Rows with types: ids that were floats and bytes, NaN, times in a zone."""
        for n in range(count):
            at = FIRST - timedelta(hours=n % 400)
            value, outcome, reason = (
                (None, "interaction", None),
                (float("nan"), "rejected", "invalid_value"),
                (float("-inf"), "rejected", "invalid_value"),
            )[n % 3]
            came = {"event_id": 10**15 + n, "user_id": 13085.0 + n % 50, "item_id": f"日{n % 9}".encode(), "event_type": "view", "event_ts": at, "value": value, "odd \" 'name": ["\x1b", None]}  # fmt: skip
            broken = n % 10 == 9
            yield "parquet", [(0, Row({**came, "item_id": b"\xff\xfe"} if broken else came, "rejected" if broken else outcome, "invalid_utf8" if broken else reason, f"{13085 + n % 50}.0", f"日{n % 9}", at))]  # fmt: skip

    def _bot(self) -> Iterator[Unit]:
        """More within an hour than anybody does."""
        for n in range(5001):
            yield "any", [(0, Row({"event_id": self._id(), "user_id": "\x1b[5mbot", "item_id": odd(n % 50), "event_type": "view", "event_ts": f"2024-03-05T10:{n % 60:02}:{n // 60 % 60:02}"}, "rejected", "bot"))]  # fmt: skip

    def _ten_megabytes(self) -> Iterator[Unit]:
        long = "<b>tide</b> " * (MEGABYTES_10 // 12)
        yield "json", [(0, self._event("u1", "i1", "comment", text=long))]
        yield "csv", [(0, self._event("u1", long, reason="oversized_id"))]
        yield "json", [(0, self._event("u1", "i1", note=long))]

    def _plain(self, count: int) -> Iterator[Unit]:
        """What comes on every other day."""
        for n in range(count):
            yield "any", [(n % 3 if n % 50 == 0 else 0, self._event(f"u{self._draw.randrange(1200)}", f"i{min(self._draw.randrange(600), self._draw.randrange(600))}", self._draw.choice(("view", "click", "like", "save"))))]  # fmt: skip


def _line(line: bytes, reason: str) -> tuple[bytes, str, str]:
    return line, "rejected", reason


def _as(row: Row, outcome: str) -> Row:
    return Row(row.came, outcome)
