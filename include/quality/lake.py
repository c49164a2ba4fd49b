"""The gate on what changed in the lake.

What cleaning already guarantees is no gate here: this one asks whether what came looks like what should have come.
"""

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.expectations.row_conditions import Column

from include.quality.results import MAX_EXAMPLES, GateResult
from include.quality.run import EXAMPLES, Judged, run_gate
from include.settings import Gates, Settings

BATCH = ["landed_table", "arrival_hour"]


def rejected_suite(gates: Gates) -> gx.ExpectationSuite:
    """The share of rejected rows; a source's first load has a threshold of its own, which also dirty sources keep."""
    return gx.ExpectationSuite(
        name="lake_rejected",
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(
                column="rejected_share",
                max_value=gates.max_rejected_share,
                row_condition=Column("compared") == True,  # noqa: E712
                notes="share of rejected rows in what changed, from a source that had no more of them before",
            ),
            gxe.ExpectColumnValuesToBeBetween(
                column="rejected_share",
                max_value=gates.max_rejected_share_first,
                row_condition=Column("compared") == False,  # noqa: E712
                notes="share of rejected rows in a first load, or from a source that always had many",
            ),
        ],
    )


def volume_suite(gates: Gates) -> gx.ExpectationSuite:
    """The size of a batch against the median of the earlier ones."""
    return gx.ExpectationSuite(
        name="lake_volume",
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(
                column="volume_ratio",
                max_value=gates.max_volume_ratio,
                notes="a batch's rows against the median of earlier batches, the larger by the smaller",
            )
        ],
    )


def undescribed_suite(gates: Gates) -> gx.ExpectationSuite:
    """The share of interactions on items that no row describes."""
    return gx.ExpectationSuite(
        name="lake_undescribed",
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(
                column="undescribed_share",
                max_value=gates.max_undescribed_share,
                notes="share of interactions on undescribed items, from a source that described them before",
            )
        ],
    )


def key_suite() -> gx.ExpectationSuite:
    """Keys of what changed: there, and unique in the whole table."""
    return gx.ExpectationSuite(
        name="lake_keys",
        expectations=[
            gxe.ExpectColumnValuesToBeBetween(column="null_keys", max_value=0, notes="changed rows without a key"),
            gxe.ExpectColumnValuesToBeBetween(
                column="repeated_keys", max_value=0, notes="changed keys that more than one row of the table has"
            ),
        ],
    )


def check_lake(changed: pd.DataFrame, earlier: pd.DataFrame, keys: pd.DataFrame, settings: Settings) -> GateResult:
    """Judge everything that changed in the lake since the last gated snapshot.

    Args:
        changed: the changed batches as they are now: `landed_table, arrival_hour, source, landed, rejected, interactions,
            undescribed, reasons`, one row a batch and source (one with source `''` where a batch is empty or gone).
            `undescribed` are interactions on items without a description, `reasons` counts rejected rows by reason.
        earlier: all batches as they were at the last gated snapshot, with the same columns (`reasons` is not needed).
        keys: `table, rows, null_keys, repeated_keys, examples`, one row a table with changed rows.
    """
    gates = settings.gates
    judged = [
        Judged(rejected_suite(gates), _rejected(changed, earlier, gates)),
        Judged(volume_suite(gates), _volumes(changed, earlier, gates), shown=(*BATCH, "landed", "median")),
        Judged(undescribed_suite(gates), _undescribed(changed, earlier, gates)),
        Judged(key_suite(), keys),
    ]
    return run_gate("lake", [part for part in judged if len(part.frame)], settings)


def _rejected(changed: pd.DataFrame, earlier: pd.DataFrame, gates: Gates) -> pd.DataFrame:
    """One row a table and source with enough changed rows: its share, with its worst batches as examples."""
    rows = []
    for (table, source), batches in changed.groupby(["landed_table", "source"]):
        before = earlier[(earlier["landed_table"] == table) & (earlier["source"] == source)]
        share = _share(batches, "rejected", "landed", gates)
        share_before = _share(before, "rejected", "landed", gates)
        if share is not None:
            rows.append(
                {
                    "landed_table": table,
                    "source": source,
                    "compared": share_before is not None and share_before <= gates.max_rejected_share,
                    "rejected_share": share,
                    EXAMPLES: _worst(batches, "rejected", "landed"),
                }
            )
    return pd.DataFrame(rows)


def _volumes(changed: pd.DataFrame, earlier: pd.DataFrame, gates: Gates) -> pd.DataFrame:
    """One row a changed batch whose table has enough earlier ones to compare with."""
    before = earlier.groupby(BATCH)["landed"].sum().groupby("landed_table").agg(["count", "median"])
    before = before[before["count"] >= gates.min_batches_for_volume]
    batches = changed.groupby(BATCH, as_index=False)["landed"].sum().merge(before, on="landed_table")
    # An empty batch counts as one row, so that the ratio is a number; a few rows more or less prove nothing.
    smaller = batches[["landed", "median"]].min(axis="columns").clip(lower=1)
    larger = batches[["landed", "median"]].max(axis="columns")
    judged: pd.DataFrame = batches.assign(volume_ratio=larger / smaller)[larger >= gates.min_rows_for_shares]
    return judged


def _undescribed(changed: pd.DataFrame, earlier: pd.DataFrame, gates: Gates) -> pd.DataFrame:
    """One row a source with enough interactions, if its items used to be described: some sources never describe any."""
    rows = []
    for source, batches in changed.groupby("source"):
        share = _share(batches, "undescribed", "interactions", gates)
        share_before = _share(earlier[earlier["source"] == source], "undescribed", "interactions", gates)
        if share is not None and share_before is not None and share_before <= gates.max_undescribed_share:
            rows.append(
                {
                    "source": source,
                    "undescribed_share": share,
                    EXAMPLES: _worst(batches, "undescribed", "interactions"),
                }
            )
    return pd.DataFrame(rows)


def _share(batches: pd.DataFrame, part: str, whole: str, gates: Gates) -> float | None:
    """Share of one count in another over all batches, or None where so few rows prove nothing."""
    total = int(batches[whole].sum())
    return int(batches[part].sum()) / total if total >= gates.min_rows_for_shares else None


def _worst(batches: pd.DataFrame, part: str, whole: str) -> list[str]:
    """The batches with the largest counts, each in a few words."""
    worst = batches[batches[part] > 0].sort_values([part, *BATCH], ascending=[False, True, True]).head(MAX_EXAMPLES)
    examples = []
    for row in worst.to_dict("records"):
        example = f"{row['landed_table']} {row['arrival_hour']:%Y-%m-%dT%H} {row['source']}: "
        example += f"{row[part]} of {row[whole]} {part}"
        if part == "rejected":
            by_count = sorted(row["reasons"].items(), key=lambda reason: (-reason[1], reason[0]))
            example += f" ({', '.join(f'{name} {count}' for name, count in by_count)})"
        examples.append(example)
    return examples
