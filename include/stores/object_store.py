"""How each engine is told of the object store that a home is on."""

from pathlib import Path
from typing import Any

from include.settings import Settings
from include.stores.files import is_remote


def duckdb_secret(settings: Settings) -> dict[str, str]:
    """The parameters of DuckDB's secret of type s3, limited to the home; empty for a local home."""
    if not is_remote(settings.home):
        return {}
    key_id, secret = settings.object_store.access
    scheme, _, host = (settings.object_store.endpoint or "https://s3.amazonaws.com").partition("://")
    return {
        "KEY_ID": key_id,
        "SECRET": secret,
        "REGION": settings.object_store.region,
        "ENDPOINT": host,
        "URL_STYLE": "path" if settings.object_store.endpoint else "vhost",
        "USE_SSL": str(scheme == "https").lower(),
        "SCOPE": f"{settings.home}/",
    }


def lance_options(path: Path) -> dict[str, str] | None:
    """LanceDB's storage options for a path of the home; None for a local one."""
    if not is_remote(path):
        return None
    remote: Any = path
    reached = remote.storage_options
    options = {
        "aws_access_key_id": reached["key"],
        "aws_secret_access_key": reached["secret"],
        "aws_region": reached["client_kwargs"]["region_name"],
    }
    if reached["endpoint_url"]:
        options |= {
            "aws_endpoint": reached["endpoint_url"],
            "allow_http": str(reached["endpoint_url"].startswith("http://")).lower(),
        }
    return options
