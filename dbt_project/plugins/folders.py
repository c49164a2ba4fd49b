"""A dbt-duckdb plugin: the SQL functions `landed_rows` and `touched_rows`, the folders that models/staging/sources.yml reads."""

import os
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin


class Plugin(BasePlugin):
    """Makes the functions once a run, in the database in memory: a variable would have to be set on every cursor."""

    def configure_connection(self, conn: Any) -> None:
        for name in ("landed_rows", "touched_rows"):
            folder = os.environ[f"LAKE_{name.upper()}"].replace("'", "''")
            conn.execute(f"CREATE MACRO memory.main.{name}() AS '{folder}'")
