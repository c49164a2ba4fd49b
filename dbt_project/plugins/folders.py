"""A dbt-duckdb plugin: DuckDB's variables `landed_rows` and `touched_rows`, the folders that models/staging/sources.yml reads."""

import os
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin


class Plugin(BasePlugin):
    """Sets the variables on every cursor, to which they belong."""

    def configure_cursor(self, cursor: Any) -> None:
        for name in ("landed_rows", "touched_rows"):
            folder = os.environ[f"LAKE_{name.upper()}"].replace("'", "''")
            cursor.execute(f"SET VARIABLE {name} = '{folder}'")
