"""Pages about publications, in the home's reports beside the Data Docs."""

from pathlib import Path

from include.settings import Settings
from include.stores.files import write as write_file


def path(settings: Settings, publication: str) -> Path:
    """Where the page of a publication is, if it has one."""
    return settings.reports / "publications" / f"{publication}.html"


def write(settings: Settings, publication: str, html: str) -> Path:
    """Write the page of a publication; it appears whole."""
    file = path(settings, publication)
    write_file(file, html.encode("utf-8"))
    return file
