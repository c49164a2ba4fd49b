"""What served lists were worth, in two tables of the lake that keep every day.

`list_quality` has a row for each day, surface, method and user group; `list_clicks` one for each day, publication and rank that
interactions named as where they came from. They are written beside the behaviour, by a commit with a message of its own, by
which whoever waits for the gate passes it over (`lake.newest_of`): nothing that vectors or lists are made of changes with it.
"""

from collections.abc import Collection, Iterable
from datetime import date
from typing import Any

import pyarrow as pa

from include.settings import Settings
from include.stores import lake

QUALITY = "list_quality"
CLICKS = "list_clicks"
PRODUCT = "tidemark"
"""The method that stands for the lists that served, as in a backtest."""
POPULARITIES = {"popularity_7d": 7.0, "popularity_1d": 1.0}
"""Recent popularity by its half-life in days; the better one of a day is what lists are compared with."""
EVERYONE = "all"
"""The user group that holds every pair."""
KEY = ("day", "surface", "method", "user_group")
SCHEMAS = {
    QUALITY: pa.schema(
        [
            ("day", pa.date32()),
            *((name, pa.string()) for name in (*KEY[1:], "publication")),
            ("as_of", pa.timestamp("us")),
            ("pairs", pa.int64()),
            *((name, pa.float64()) for name in ("ndcg", "hit_rate", "recall", "ratio", "low", "high")),
        ]
    ),
    CLICKS: pa.schema(
        [("day", pa.date32()), ("publication", pa.string()), ("rank", pa.int32()), ("interactions", pa.int64())]
    ),
}


def write(settings: Settings, tables: dict[str, pa.Table], emptied: Collection[date] = ()) -> None:
    """Add rows to both tables, in the place of whatever their days had, in one commit. The caller holds the writer's lock.

    Args:
        settings: where the lake is.
        tables: rows of `SCHEMAS`, by table.
        emptied: days whose rows go, too, whether or not others come.
    """
    with lake.connect(settings, read_only=False) as connection:
        connection.begin()
        for name, schema in SCHEMAS.items():
            connection.register("scored", tables[name])
            connection.register("of_schema", schema.empty_table())
            connection.execute(f"CREATE TABLE IF NOT EXISTS {name} AS SELECT * FROM of_schema")
            connection.execute(
                f"DELETE FROM {name} WHERE day IN (SELECT DISTINCT day FROM scored) OR list_contains(?::date[], day)",
                [sorted(emptied)],
            )
            connection.execute(f"INSERT INTO {name} BY NAME SELECT * FROM scored")
            connection.unregister("scored")
            connection.unregister("of_schema")
        connection.execute(f"CALL {lake.ALIAS}.set_commit_message('tidemark', ?)", [lake.SCORES_MESSAGE])
        connection.commit()


def read(settings: Settings, name: str, days: int) -> pa.Table:
    """The rows of a table of its last `days` days, of each surface if it has any, sorted; none where nothing was scored yet."""
    schema = SCHEMAS[name]
    of_each = "PARTITION BY surface" if "surface" in schema.names else ""
    if not there(settings):
        return schema.empty_table()
    with lake.connect(settings) as connection:
        return connection.execute(
            f"""
            SELECT {", ".join(schema.names)} FROM {name}
            QUALIFY dense_rank() OVER ({of_each} ORDER BY day DESC) <= $days
            ORDER BY ALL
            """,
            {"days": days},
        ).to_arrow_table()


def by_day(rows: Iterable[dict[str, Any]]) -> dict[str, dict[date, dict[str, dict[str, Any]]]]:
    """Of the rows of `QUALITY` those of every pair: by surface, day and method."""
    found: dict[str, dict[date, dict[str, dict[str, Any]]]] = {}
    for row in rows:
        if row["user_group"] == EVERYONE:
            found.setdefault(row["surface"], {}).setdefault(row["day"], {})[row["method"]] = row
    return found


def there(settings: Settings) -> bool:
    """Whether any day was scored yet, so that there are tables."""
    if not lake.exists(settings):
        return False
    with lake.connect(settings) as connection:
        return lake.has_table(connection, QUALITY)


def scored_days(settings: Settings) -> set[date]:
    """The days that have rows."""
    if not there(settings):
        return set()
    with lake.connect(settings) as connection:
        return {row[0] for row in connection.execute(f"SELECT DISTINCT day FROM {QUALITY}").fetchall()}
