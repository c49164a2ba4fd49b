"""Promise 3 on real data: ten months of UCI Online Retail II in weekly batches, with corrections, against one bulk load."""

import random
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from include.settings import Gates, ItemFactors, Ranker, Settings, Surface
from include.steps.land import land
from include.steps.plan import plan_rebuild, plan_recommend, plan_update
from include.stores import artefacts, publications
from tests import samples
from tests.test_incremental import published
from tests.test_path import cleaned, same_content

pytestmark = pytest.mark.shared

Row = dict[str, Any]
KINDS = ("quantity", "product", "customer", "withdrawn", "late")
CORRECTIONS = 20
AFTERWARDS = 8  # of them come when all weeks are there, so that no later week mends what an update leaves wrong
UPDATES = 4  # while the weeks come: an update takes the weeks and corrections since the one before
INVOICES = 3  # that a correction sets right
CUSTOMER = "Customer ID"


@dataclass(frozen=True)
class Correction:
    kind: str
    week: int
    after: int  # the week after which it comes; the number of weeks stands for the end
    invoices: frozenset[str]

    def takes(self, row: Row) -> bool:
        return row["Invoice"] in self.invoices


def published_weeks(folder: Path) -> tuple[list[datetime], list[list[Row]]]:
    """The lines as UCI published them, by week, and the last hour of each week, when it arrives."""
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/online_retail, which is not here")
    weeks: dict[datetime, list[Row]] = defaultdict(list)
    lines = duckdb.sql(f"SELECT date_trunc('week', InvoiceDate::TIMESTAMP), * FROM read_parquet('{folder}/*.parquet')")
    for monday, *values in lines.fetchall():
        weeks[monday].append(dict(zip(lines.columns[1:], values, strict=True)))
    arrivals = [monday.replace(tzinfo=UTC) + timedelta(days=7, hours=-1) for monday in sorted(weeks)]
    return arrivals, [weeks[monday] for monday in sorted(weeks)]


def drawn_corrections(weeks: list[list[Row]], draw: random.Random) -> list[Correction]:
    found = []
    for n in range(CORRECTIONS):
        week = draw.randrange(len(weeks) - 1)
        after = len(weeks) if n < AFTERWARDS else draw.randrange(week + 1, len(weeks))
        invoices = sorted({row["Invoice"] for row in weeks[week] if row[CUSTOMER]})
        found.append(Correction(KINDS[n % len(KINDS)], week, after, frozenset(draw.sample(invoices, INVOICES))))
    return found


def set_right(rows: list[Row], correction: Correction, draw: random.Random) -> list[Row]:
    """A week's lines as they are delivered again."""
    products = sorted({(row["StockCode"], row["Description"]) for row in rows if row["Description"]})
    customer = draw.choice(sorted({row[CUSTOMER] for row in rows if row[CUSTOMER]}))

    def right(row: Row) -> Row:
        match correction.kind:
            case "quantity":
                return {**row, "Quantity": row["Quantity"] * 3}
            case "product":
                return {**row, **dict(zip(("StockCode", "Description"), draw.choice(products), strict=True))}
            case _:
                return {**row, CUSTOMER: customer}

    gone = correction.kind in ("withdrawn", "late")
    return [right(row) if correction.takes(row) else row for row in rows if not (gone and correction.takes(row))]


class Shop:
    """A home to which the weeks come, and what is set right in them; `lines` is what was delivered last."""

    def __init__(self, settings: Settings, folder: Path, arrivals: list[datetime], weeks: list[list[Row]]) -> None:
        self.settings, self.folder, self.arrivals, self.lines = settings, folder, arrivals, weeks
        self.draw = random.Random(21)  # noqa: S311
        self.late: dict[Correction, list[Row]] = {}

    def hold_back(self, corrections: Iterable[Correction]) -> None:
        for correction in corrections:
            rows = self.lines[correction.week]
            self.late[correction] = [row for row in rows if correction.takes(row)]
            self.lines[correction.week] = set_right(rows, correction, self.draw)

    def deliver(self, rows: list[Row], arrival: datetime, name: str) -> None:
        file = samples.write(self.folder / f"{name}.parquet", rows)
        land(self.settings, file, format="online-retail", arrival=arrival, replace=True, progress=lambda _: None)

    def correct(self, corrections: list[Correction], now: datetime) -> None:
        late = [row for correction in corrections for row in self.late.get(correction, [])]
        if late:
            self.deliver(late, now + timedelta(hours=1), "late")
        for correction in corrections:
            if correction not in self.late:
                week = correction.week
                self.lines[week] = set_right(self.lines[week], correction, self.draw)
                self.deliver(self.lines[week], self.arrivals[week], "week")

    def update(self) -> tuple[dict[str, list[str]], publications.Manifest]:
        """Clean and update; returns whom the update touched, and the publication."""
        cleaned(self.settings)
        plan = plan_update(self.settings)
        return publications.touched(self.settings, plan["candidate"]), published(self.settings, plan)


def test_weeks_with_corrections_leave_what_one_bulk_load_gives(shared_data, tmp_path):
    """All ten months in real size. 43 cleans and updates would take a quarter of an hour, so that a seeded choice says after
    which weeks they run; each then takes all batches that came or changed since the one before."""
    arrivals, weeks = published_weeks(shared_data / "online_retail")
    draw = random.Random(20)  # noqa: S311
    corrections = drawn_corrections(weeks, draw)
    last = len(weeks) - 1
    settings = Settings(
        home=tmp_path / "weekly",
        item_factors=ItemFactors(dimensions=32, max_age_days=400),
        ranker=Ranker(max_age_days=400),
        surfaces=(Surface(length=20),),
        gates=Gates(max_volume_ratio=1000),  # what comes late is little beside a week
    )
    shop = Shop(settings, tmp_path, arrivals, weeks)
    shop.hold_back(correction for correction in corrections if correction.kind == "late")
    updates = {*draw.sample(range(last), UPDATES - 1), last}
    for week, arrival in enumerate(arrivals):
        shop.deliver(weeks[week], arrival, "week")
        shop.correct([correction for correction in corrections if correction.after == week], arrival)
        if week in updates:
            shop.update()
    end = arrivals[last] + timedelta(hours=1)
    shop.correct([correction for correction in corrections if correction.after > last], end)
    touched, made = shop.update()
    assert made["base"] is not None
    assert 0 < len(touched["users"]) < made["run"]["users"]["total"] * 2 / 3, (
        "many must be left alone, or this shows little"
    )

    rebuilt = published(settings, plan_rebuild(settings, publication=made["id"]))
    same_content(settings, made, rebuilt)
    relisted = published(settings, plan_recommend(settings))
    assert relisted["base"] is not None

    bulk = settings.model_copy(update={"home": tmp_path / "bulk", "work": tmp_path / "bulk" / "cache"})
    lines = [row for rows in [*shop.lines, *shop.late.values()] for row in rows]
    draw.shuffle(lines)
    file = samples.write(tmp_path / "all.parquet", lines)
    land(bulk, file, format="online-retail", arrival=arrivals[last], progress=lambda _: None)
    # Which text of an item holds follows from when it arrived, so items arrive here as they did there.
    shutil.rmtree(bulk.landing / "items")
    shutil.copytree(settings.landing / "items", bulk.landing / "items")
    for name in ("artefacts", "cache"):
        shutil.copytree(settings.home / name, bulk.home / name, dirs_exist_ok=True)
    cleaned(bulk)
    loaded = published(bulk, plan_recommend(bulk, datetime.fromisoformat(made["as_of"]), beyond_data=True))
    assert loaded["base"] is None
    learned = loaded["artefacts"].keys() - {"sources"}  # which are of one snapshot of one lake
    assert {kind: loaded["artefacts"][kind] for kind in learned} == {kind: made["artefacts"][kind] for kind in learned}
    described = artefacts.describe(settings, made["artefacts"]["ranker"])
    assert described["model"] != "blend", "what an update does with a ranker is to be seen"
    assert loaded["run"]["texts"]["embedded"] == 0
    same_content(settings, relisted, loaded, bulk)
