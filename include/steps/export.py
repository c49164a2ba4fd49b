"""Write a publication's tables to Parquet files: the same publication gives the same bytes, always."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from include.columns import VectorTable
from include.errors import BadInput
from include.models.sparse import places
from include.settings import Settings
from include.stores import files, publications, vectors

What = Literal["recommendations", "user-vectors", "item-vectors"]


def export(settings: Settings, what: What, out: Path, publication: str | None = None) -> dict[str, Any]:
    """Export recommendations (a row for each item of each list) or vectors, sorted by key.

    Args:
        settings: all settings.
        what: what to export.
        out: the Parquet file to write; it appears whole.
        publication: by default the one that serves.

    Returns:
        `publication`, `rows` and `file`.
    """
    manifest = publications.named_or_serving(settings, publication)
    refuse_other_files(out)
    if what == "recommendations":
        # A short surface keeps no places for new items, so its reasons lack a field that others have: null there.
        found = [_lists(settings, manifest, surface) for surface in publications.surfaces(manifest)]
        table = pa.concat_tables(found, promote_options="permissive")
    else:
        table = _table(settings, manifest, VectorTable.USERS if what == "user-vectors" else VectorTable.ITEMS)
        key = table.schema.field(0).name
        table = table.select([key, *(each.name for each in table.schema if pa.types.is_fixed_size_list(each.type))])
    # The vectors' own metadata names artefacts and encoder; the bytes follow from the rows alone.
    files.write_parquet(out, table)
    return {"publication": manifest["id"], "rows": table.num_rows, "file": str(out)}


def refuse_other_files(out: Path) -> None:
    """Do nothing if a file may be an export.

    Raises:
        BadInput: its name does not end in .parquet.
    """
    if out.suffix != ".parquet":
        raise BadInput(f"--out {out}: exports are Parquet files, so the name must end in .parquet")


def _table(settings: Settings, manifest: publications.Manifest, name: str) -> pa.Table:
    return vectors.read(settings, manifest["encoder_id"], name, manifest["tables"][name]["version"])


def _lists(settings: Settings, manifest: publications.Manifest, surface: str) -> pa.Table:
    lists = _table(settings, manifest, VectorTable.recommendations(surface)).combine_chunks()
    items = lists["items"].combine_chunks()
    lengths = np.asarray(items.value_lengths())
    owner = np.repeat(np.arange(lists.num_rows), lengths)
    return pa.table(
        {
            "surface": pa.array([surface] * len(owner), pa.string()),
            "user_id": lists["user_id"].take(pa.array(owner)),
            "rank": pa.array(places(lengths) + 1, pa.int32()),
            "item_id": items.flatten(),
            "score": lists["scores"].combine_chunks().flatten(),
            "reasons": lists["reasons"].combine_chunks().flatten(),
        }
    )
