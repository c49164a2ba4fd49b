"""The pages of a home's reports: of publications, challengers, backtests and trainings. Data Docs lie beside them."""

from pathlib import Path

from include.errors import BadInput
from include.settings import Settings
from include.stores import backtests, files, training

PUBLICATIONS = "publications"
FOLDERS = (PUBLICATIONS, backtests.FOLDER, training.FOLDER)


def path(settings: Settings, publication: str) -> Path:
    """Where the page of a publication is, if it has one."""
    return settings.reports / PUBLICATIONS / f"{publication}.html"


def write(settings: Settings, publication: str, html: str) -> Path:
    """Write the page of a publication; it appears whole."""
    file = path(settings, publication)
    files.write(file, html.encode("utf-8"))
    return file


def names(settings: Settings) -> list[str]:
    """Every page by its path below the reports, such as `backtests/NAME/report.html`; of each folder the newest first."""
    listing = files.Listing(settings.reports)
    found, waiting = [], [settings.reports / name for name in FOLDERS]
    while waiting:
        for entry in listing.entries(waiting.pop()):
            if entry.is_folder:
                waiting.append(entry.path)
            elif entry.path.suffix == ".html":
                found.append(str(entry.path.relative_to(settings.reports)))
    return sorted(found, reverse=True)  # names begin with when they were made


def read(settings: Settings, name: str) -> str:
    """A page by its path below the reports.

    Raises:
        BadInput: there is no such page.
    """
    if name not in names(settings):
        raise BadInput(
            f"there is no page {name!r} among the reports; Data Docs, which load scripts from elsewhere, are not served: "
            f"open {settings.reports / 'data_docs' / 'index.html'}"
        )
    return (settings.reports / name).read_text("utf-8")
