"""Pages about publications, in the home's reports beside the Data Docs."""

import os
from pathlib import Path

from include.settings import Settings


def path(settings: Settings, publication: str) -> Path:
    """Where the page of a publication is, if it has one."""
    return settings.reports / "publications" / f"{publication}.html"


def write(settings: Settings, publication: str, html: str) -> Path:
    """Write the page of a publication; it appears whole."""
    file = path(settings, publication)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    aside.write_text(html, "utf-8")
    os.replace(aside, file)
    return file
