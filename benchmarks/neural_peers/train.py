"""LightFM and SASRec by RecTools on what `benchmarks.bench_neural_peers` exported; it runs in an environment of its own.

Each method is trained on what precedes the window before the cut, until its lists for that window are no better for `PATIENCE`
epochs; then anew, for as many epochs as were best, on everything before the cut. FOLDER gets `recommendations.parquet` (`cut,
method, user_id, rank, item_id, score`) and `training.json` (each method's setting, and loss and NDCG by epoch).

    PYTHONPATH=. PYTHON benchmarks/neural_peers/train.py FOLDER

LightFM: M. Kula, "Metadata Embeddings for User and Item Cold-start Recommendations", CBRecSys 2015, with the WARP loss.
SASRec: W.-C. Kang and J. McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, with softmax over all items as loss.
"""

import argparse
import json
import logging
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightfm import LightFM
from pytorch_lightning import seed_everything
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import LightFMWrapperModel, SASRecModel
from rectools.models.nn.item_net import IdEmbeddingsItemNet
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from scipy.sparse import csr_array

from include.models import metrics

PATIENCE, MOST_EPOCHS = 10, 200
SASREC = {
    "n_blocks": 2,
    "n_heads": 2,
    "n_factors": 64,
    "dropout_rate": 0.2,
    "session_max_len": 50,
    "loss": "softmax where there is no padding",
    "lr": 1e-3,
    "batch_size": 16,
}
LIGHTFM = {"no_components": 64, "loss": "warp", "learning_rate": 0.05}
PAIRS_OF_LOSS = 20_000
COLUMNS = ["cut", "method", "user_id", "rank", "item_id", "score"]


@dataclass(frozen=True)
class Known:
    """What was exported of one moment."""

    interactions: pd.DataFrame
    items: pd.DataFrame
    users: list[str]

    @cached_property
    def liked(self) -> pd.DataFrame:
        """What users did with some weight, each pair at its last time. In any order where times are equal, as in a basket: an order by id could be learned."""
        some = self.interactions[self.interactions["weight"] > 0]
        last = some.groupby(["user_id", "item_id"], as_index=False)["event_ts"].max()
        shuffled = last.sample(frac=1, random_state=0).sort_values("event_ts", kind="stable", ignore_index=True)
        shuffled.columns = [Columns.User, Columns.Item, Columns.Datetime]
        return shuffled.assign(**{Columns.Weight: 1.0})

    @cached_property
    def words(self) -> pd.DataFrame:
        """Categories and words of the title of each item, which share a weight of 1."""
        rows = [
            (item, kind, value)
            for item, title, categories in self.items[["item_id", "title", "categories"]].itertuples(index=False)
            for kind, values in (("word", re.findall(r"\w+", (title or "").lower())), ("category", _list(categories)))
            for value in sorted(set(values))
        ]
        found = pd.DataFrame(rows, columns=["id", "feature", "value"])
        return found.assign(weight=1.0 / found.groupby("id")["id"].transform("size"))


def _list(values: Any) -> list[str]:
    return [] if values is None else list(values)


def read(folder: Path) -> Known:
    """What was exported to a folder."""
    tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("interactions", "items", "users")}
    return Known(tables["interactions"], tables["items"], tables["users"]["user_id"].tolist())


class Softmax(TransformerLightningModule):
    """RecTools' own softmax loss without computing it where sessions are padded, which takes a third of the time."""

    def _calc_custom_loss(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
        every = self.torch_model.item_model.get_all_embeddings()
        there = batch["y"] != 0
        logits = self.torch_model.encode_sessions(batch, every)[there] @ every.T
        return torch.nn.functional.cross_entropy(logits, batch["y"][there])


class Sasrec:
    """SASRec over ids of items."""

    setting = SASREC

    def __init__(self, known: Known, seed: int) -> None:
        seed_everything(seed)
        self.dataset = Dataset.construct(known.liked)
        self.model = SASRecModel(
            item_net_block_types=(IdEmbeddingsItemNet,), lightning_module_type=Softmax, deterministic=True, **SASREC
        )

    def epoch(self) -> float:
        """Train for one epoch; the mean loss of it."""
        self.model.fit_partial(self.dataset, min_epochs=1, max_epochs=1)
        return float(self.model.fit_trainer.callback_metrics[self.model.train_loss_name])


class Lightfm:
    """LightFM, a hybrid of ids, categories and words of titles."""

    setting = LIGHTFM

    def __init__(self, known: Known, seed: int) -> None:
        self.dataset = Dataset.construct(
            known.liked, item_features_df=known.words, cat_item_features=["word", "category"]
        )
        self.model = LightFMWrapperModel(LightFM(random_state=seed, **LIGHTFM))
        draw = np.random.default_rng(seed)
        taken = self.dataset.get_user_item_matrix(include_weights=False).tocoo()
        some = draw.integers(0, taken.nnz, PAIRS_OF_LOSS)
        self.pairs = taken.row[some], taken.col[some], draw.integers(0, self.dataset.n_hot_items, PAIRS_OF_LOSS)

    def epoch(self) -> float:
        """Train for one epoch; the BPR loss of a fixed draw of pairs and other items, since LightFM tells none."""
        self.model.fit_partial(self.dataset, epochs=1)
        users, items = self.model.get_vectors(self.dataset)
        user, item, other = self.pairs
        margin = np.einsum("ij,ij->i", users[user], items[item] - items[other])
        return float(np.logaddexp(0.0, -margin).mean())


METHODS = {"lightfm": Lightfm, "sasrec": Sasrec}


def lists(method: Sasrec | Lightfm, known: Known, k: int) -> pd.DataFrame:
    """The best available items that a user did nothing with before: `user_id, rank, item_id, score`."""
    seen = known.interactions[["user_id", "item_id"]].drop_duplicates()
    # RecTools hides what it trained on; what a user saw without liking it is dropped here.
    more = int(seen.groupby("user_id").size().max())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of users of whom it knows nothing: they get no list
        found = method.model.recommend(
            known.users,
            method.dataset,
            k=k + more,
            filter_viewed=True,
            items_to_recommend=known.items.loc[known.items["available"], "item_id"].to_numpy(),
            on_unsupported_targets="ignore",
        )
    found = found[["user_id", "item_id", "score"]].merge(seen, how="left", indicator=True)
    found = found[found["_merge"] == "left_only"].groupby("user_id", sort=False).head(k)
    found = found.assign(rank=found.groupby("user_id").cumcount() + 1)
    return found.sort_values(["user_id", "rank"])[["user_id", "rank", "item_id", "score"]]


def ndcg(found: pd.DataFrame, known: Known, targets: pd.DataFrame, k: int) -> float:
    """The mean of the users' NDCG@k, by the backtest's own definition."""
    row = {user: number for number, user in enumerate(known.users)}
    column = {item: number for number, item in enumerate(known.items["item_id"])}
    places = targets["user_id"].map(row), targets["item_id"].map(column)
    wanted = csr_array((np.ones(len(targets)), places), shape=(len(row), len(column)))
    listed = np.full((len(row), k), -1, dtype=np.int64)
    listed[found["user_id"].map(row), found["rank"] - 1] = found["item_id"].map(column)
    return float(metrics.ndcg(metrics.hits(wanted, listed), np.diff(wanted.indptr)).mean())


def epochs(method: Sasrec | Lightfm) -> Iterator[tuple[int, float]]:
    """Number and loss of one epoch after another."""
    for number in range(1, MOST_EPOCHS + 1):
        yield number, method.epoch()


def train(name: str, folder: Path, k: int, seed: int) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find how many epochs are best, train anew for as many, and list."""
    start = time.process_time()
    earlier, targets = read(folder / "earlier"), pd.read_parquet(folder / "earlier" / "targets.parquet")
    curve: list[dict[str, float]] = []
    best = 0
    method = METHODS[name](earlier, seed)
    for number, loss in epochs(method):
        curve.append({"loss": loss, "ndcg": ndcg(lists(method, earlier, k), earlier, targets, k)})
        best = max(range(number), key=lambda each: curve[each]["ndcg"]) + 1
        print(
            f"{name} epoch {number}: loss {loss:.4f}, NDCG@{k} of the window before the cut {curve[-1]['ndcg']:.4f}",
            flush=True,
        )
        if number - best >= PATIENCE:
            break
    known = read(folder / "cut")
    method = METHODS[name](known, seed)
    losses = [loss for number, loss in zip(range(best), (loss for _, loss in epochs(method)), strict=False)]
    found = lists(method, known, k)
    return found, {
        "setting": method.setting,
        "epochs": best,
        "stopped": len(curve) < MOST_EPOCHS,
        "curve": curve,
        "loss_at_the_cut": losses,
        "users_without_list": len(known.users) - found["user_id"].nunique(),
        "cpu_seconds": time.process_time() - start,
    }


def main() -> None:
    """Train every method and write what it lists."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    plan = json.loads((folder / "plan.json").read_text("utf-8"))
    tables, training = [], {}
    for name in METHODS:
        found, training[name] = train(name, folder, plan["k"], plan["seed"])
        tables.append(found.assign(cut=pd.Timestamp(plan["cut"]), method=name)[COLUMNS])
        # Behind each method, so that what one took minutes for is not lost with the next.
        pd.concat(tables, ignore_index=True).to_parquet(folder / "recommendations.parquet", index=False)
        (folder / "training.json").write_text(json.dumps(training, indent=1), "utf-8")


if __name__ == "__main__":
    main()
