"""Learn a text space from what users took next: pairs, negatives, the loss, and the loop that trains.

InfoNCE: A. van den Oord, Y. Li and O. Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018. In-batch
negatives, and their correction for how often each is drawn: X. Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large
Corpus Item Recommendations", RecSys 2019. Hard negatives: L. Xiong et al., "Approximate Nearest Neighbor Negative Contrastive
Learning for Dense Text Retrieval", ICLR 2021; here of the frozen encoder, so that they are found once.

A document is a text that is embedded: an item's, or one that a user wrote. Documents are numbers here.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from include.models import metrics
from include.models.sparse import run_starts

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
NONE = -1
NDCG_AT = 10
DOCUMENTS_AT_ONCE = 256
"""Documents embedded together while nothing is learned."""


@dataclass(frozen=True)
class Pairs:
    """What users did, and what they took next.

    Attributes:
        user: (n,) whose pair it is.
        history: (n, h) documents before it, the newest first; -1 for none.
        target: (n,) the document taken.
    """

    user: Ints
    history: Ints
    target: Ints

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: NDArray[Any]) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.user[rows], self.history[rows], self.target[rows])


@dataclass(frozen=True)
class Lesson:
    """What is learned from, and what says when to stop.

    Attributes:
        train: pairs of the training span.
        taken: sorted `user * documents + document` of all that is no negative of a user in the training span.
        near: (documents, m) documents that hard negatives are drawn from, m > 0; -1 for none.
        stop: pairs of the later window; their history is what was known at its start.
        candidates: (c,) documents that the later window's targets are looked for among, with all targets.
        stop_taken: as `taken`, of the later window.
        documents: how many there are.
    """

    train: Pairs
    taken: Ints
    near: Ints
    stop: Pairs
    candidates: Ints
    stop_taken: Ints
    documents: int


def make_pairs(
    user: Ints,
    ts: NDArray[np.int64],
    document: Ints,
    taken: NDArray[np.bool_],
    *,
    history: int,
    known_until: int | None = None,
    most: int | None = None,
) -> Pairs:
    """Pairs of what a user did before and a document that the user took for the first time.

    What happened in the same moment, such as a basket, is no history of it.

    Args:
        user: (n,) whose event it is, in any order.
        ts: (n,) its time.
        document: (n,) what it is about, or what was written.
        taken: (n,) whether the document was taken (an item), or only written (a text).
        history: documents of a history, at most.
        known_until: only events from then on make pairs, and only what lies before it is history; None: all, and each pair
            has the history of its own moment.
        most: pairs of a user, at most: the newest.

    Returns:
        Pairs with some history, sorted by user and time.
    """
    order = np.lexsort((document, ts, user))
    user, ts, document, taken = user[order], ts[order], document[order], taken[order]
    n = len(user)
    place = np.arange(n)
    if n == 0:
        return Pairs(user, np.zeros((0, history), dtype=np.int64), document)
    new_user, new_moment = run_starts(user), run_starts(user, ts)
    begins = np.maximum.accumulate(np.where(new_user, place, 0))
    before = np.maximum.accumulate(np.where(new_moment, place, 0))
    if known_until is not None:
        known = np.concatenate([[0], np.cumsum(ts < known_until)])
        ends = np.append(np.flatnonzero(new_user)[1:], n)[np.cumsum(new_user) - 1]
        before = begins + known[ends] - known[begins]
    rows = np.flatnonzero(taken)
    # np.unique keeps the first of each: the earliest time of that user and document.
    _, first = np.unique(user[rows] * (document.max() + 1) + document[rows], return_index=True)
    rows = np.sort(rows[first])
    if known_until is not None:
        rows = rows[ts[rows] >= known_until]
    rows = rows[before[rows] > begins[rows]]
    if most is not None:
        later = np.append(np.flatnonzero(np.diff(user[rows])) + 1, len(rows))
        last = later[np.searchsorted(later, np.arange(len(rows)), side="right")]
        rows = rows[last - np.arange(len(rows)) <= most]
    back = before[rows][:, None] - np.arange(1, history + 1)
    there = back >= begins[rows][:, None]
    return Pairs(user[rows], np.where(there, document[np.maximum(back, 0)], NONE), document[rows])


def near_documents(vectors: NDArray[np.float32], of: Ints, among: Ints, most: int) -> Ints:
    """The nearest documents of each by cosine, itself left out.

    Args:
        vectors: (documents, d) of norm 1.
        of: whose neighbours are looked for.
        among: documents that may be one.
        most: how many.

    Returns:
        (documents, most); -1 for none.
    """
    found = np.full((len(vectors), most), NONE, dtype=np.int64)
    width = min(most, len(among) - 1)
    if width <= 0:
        return found
    others = vectors[among]
    for start in range(0, len(of), 1024):
        own = of[start : start + 1024]
        scores = vectors[own] @ others.T
        scores[own[:, None] == among[None, :]] = -np.inf
        best = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        values = np.take_along_axis(scores, best, axis=1)
        best = np.take_along_axis(best, np.lexsort((among[best], -values), axis=1), axis=1)
        found[own, :width] = np.where(np.isfinite(np.take_along_axis(scores, best, axis=1)), among[best], NONE)
    return found


def allowed(taken: Ints, documents: int, user: Ints, target: Ints, candidates: Ints) -> NDArray[np.bool_]:
    """(n, c) which candidates count for each row: its target, and what its user did not take."""
    asked = user[:, None] * documents + candidates[None, :]
    place = np.minimum(np.searchsorted(taken, asked), max(len(taken) - 1, 0))
    own = taken[place] == asked if len(taken) else np.zeros(asked.shape, dtype=bool)
    return np.asarray(~own | (candidates[None, :] == target[:, None]))


def info_nce(
    queries: torch.Tensor,
    candidates: torch.Tensor,
    correct: torch.Tensor,
    mask: torch.Tensor,
    bias: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """(n,) the loss of each row: minus the log of the share that the softmax over its candidates gives to the right one.

    Args:
        queries: (n, d) of norm 1.
        candidates: (c, d) of norm 1.
        correct: (n,) column of the right candidate.
        mask: (n, c) which candidates count; the right one always.
        bias: (c,) taken off the scores: the log of how often each candidate is drawn.
        temperature: cosines are divided by it.
    """
    scores = (queries @ candidates.T) / temperature - bias
    return torch.nn.functional.cross_entropy(scores.masked_fill(~mask, -torch.inf), correct, reduction="none")


def mean_of_history(embedded: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """(n, d) of norm 1: the mean of the vectors at (n, h) places, -1 for none."""
    there = (place >= 0).to(embedded.dtype)[..., None]
    return torch.nn.functional.normalize((embedded[place.clamp(min=0)] * there).sum(dim=1), dim=1)


class Way(ABC):
    """Something that embeds documents and has weights that are learned."""

    device: str

    @abstractmethod
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is learned, by name."""

    @abstractmethod
    def embed(self, documents: Ints) -> torch.Tensor:
        """(n, d) of norm 1, each row from its own document alone."""

    @abstractmethod
    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """What an encoder needs of it."""


@dataclass(frozen=True)
class Pace:
    """How it is trained.

    Attributes:
        batch: pairs of a step.
        hard_negatives: drawn for each of them.
        learning_rate: of AdamW.
        weight_decay: towards weights of nothing, which is the frozen encoder.
        temperature: of the loss.
        popularity: 1 corrects in-batch negatives for how often they are drawn, 0 does not.
        evaluate_every: steps from one look at the later window to the next.
        patience: looks without a better one, after which it stops.
        epochs: at most.
        seconds: at most, of all tries together.
        seed: of everything that draws.
    """

    batch: int
    hard_negatives: int
    learning_rate: float
    weight_decay: float
    temperature: float
    popularity: float
    evaluate_every: int
    patience: int
    epochs: int
    seconds: float
    seed: int


@dataclass
class Progress:
    """How far a training is; with the tensors beside it, all that going on needs."""

    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float | None]] = field(default_factory=list)
    """`step`, `seconds`, `train_loss` (mean since the look before; None at the first), `loss`, `ndcg` and `ndcg_10` of the
    later window."""
    best: int = 0
    """Position in the curve of the highest NDCG of the later window."""
    ended: str | None = None
    """Why it stopped; None while it goes on."""


Saved = tuple[Progress, dict[str, NDArray[np.float32]]]


class Trainer:
    """The loop. It is the same whatever embeds."""

    def __init__(self, way: Way, lesson: Lesson, pace: Pace, saved: Saved | None = None) -> None:
        """Begin, or go on where a saved state was.

        Going on gives, on the same machine and processor, the bits that an uninterrupted training gives: orders and draws follow
        from the seed and the step alone.
        """
        self.way, self.lesson, self.pace = way, lesson, pace
        self.progress = Progress()
        self._named = way.parameters()
        self._optimiser = torch.optim.AdamW(
            self._named.values(), lr=pace.learning_rate, weight_decay=pace.weight_decay, foreach=False
        )
        self._best = {name: own.detach().clone() for name, own in self._named.items()}
        counts = np.bincount(lesson.train.target, minlength=lesson.documents)
        drawn = np.log(np.maximum(counts, 1) / max(len(lesson.train), 1))
        # Less their mean, which a softmax does not see: so hard negatives, which are not drawn by popularity, stand at 0.
        centre = float(drawn[lesson.train.target].mean()) if len(lesson.train) else 0.0
        self._bias = np.where(counts > 0, pace.popularity * (drawn - centre), 0.0)
        if saved is not None:
            self._take(saved)

    def _take(self, saved: Saved) -> None:
        self.progress, tensors = saved
        with torch.no_grad():
            for name, own in self._named.items():
                own.copy_(torch.from_numpy(tensors[f"now.{name}"]))
                self._best[name] = torch.from_numpy(tensors[f"best.{name}"]).to(own.device)
                if self.progress.step:
                    self._optimiser.state[own] = {
                        "step": torch.tensor(float(self.progress.step)),
                        "exp_avg": torch.from_numpy(tensors[f"first.{name}"]).to(own.device),
                        "exp_avg_sq": torch.from_numpy(tensors[f"second.{name}"]).to(own.device),
                    }

    def _saved(self) -> Saved:
        tensors: dict[str, NDArray[np.float32]] = {}
        for name, own in self._named.items():
            state = self._optimiser.state[own]
            parts = {"now": own.detach(), "best": self._best[name]}
            if state:
                parts |= {"first": state["exp_avg"], "second": state["exp_avg_sq"]}
            tensors |= {f"{part}.{name}": value.cpu().numpy().copy() for part, value in parts.items()}
        return self.progress, tensors

    @property
    def steps_an_epoch(self) -> int:
        """Steps in which every pair is seen once."""
        return max(1, -(-len(self.lesson.train) // self.pace.batch))

    def run(self, save: Callable[[Saved], None] = lambda _: None) -> dict[str, NDArray[np.float32]]:
        """Train until the later window stops improving, the epochs are over, or the time is.

        Args:
            save: given the whole state at each look at the later window.

        Returns:
            The tensors of the weights that were best in the later window, which may be those it began with.
        """
        losses: list[float] = []
        clock = time.monotonic() - self.progress.seconds
        most = self.pace.epochs * self.steps_an_epoch
        if not self.progress.curve:
            self._look(losses, clock, most)
            save(self._saved())
        while self.progress.ended is None:
            losses.append(self._step(self.progress.step))
            self.progress.step += 1
            over = time.monotonic() - clock >= self.pace.seconds
            if over or self.progress.step % self.pace.evaluate_every == 0 or self.progress.step >= most:
                self._look(losses, clock, most)
                save(self._saved())
                losses = []
        with torch.no_grad():
            for name, own in self._named.items():
                own.copy_(self._best[name])
        return self.way.tensors()

    def _step(self, step: int) -> float:
        """One step of the optimiser; returns the mean loss of its pairs."""
        lesson, pace = self.lesson, self.pace
        epoch, part = divmod(step, self.steps_an_epoch)
        order = np.random.default_rng([pace.seed, 1, epoch]).permutation(len(lesson.train))
        pairs = lesson.train.take(order[part * pace.batch : (part + 1) * pace.batch])
        hard = self._hard(pairs, step)
        candidates = np.unique(np.append(pairs.target, hard))
        documents = np.unique(np.append(candidates, pairs.history[pairs.history >= 0]))
        embedded, device = self.way.embed(documents), self.way.device
        mask = allowed(lesson.taken, lesson.documents, pairs.user, pairs.target, candidates)
        loss = info_nce(
            mean_of_history(embedded, self._places(documents, pairs.history)),
            embedded[self._places(documents, candidates)],
            self._places(candidates, pairs.target),
            torch.from_numpy(mask).to(device),
            torch.from_numpy(self._bias[candidates].astype(np.float32)).to(device),
            pace.temperature,
        ).mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return float(loss.detach())

    def _hard(self, pairs: Pairs, step: int) -> Ints:
        """Hard negatives of a step: drawn from the neighbours of each target; what the pair's own user took is masked later."""
        near = self.lesson.near[pairs.target]
        draw = np.random.default_rng([self.pace.seed, 2, step])
        found = np.take_along_axis(
            near, draw.integers(0, near.shape[1], (len(pairs), self.pace.hard_negatives)), axis=1
        )
        return np.asarray(found[found >= 0])

    def _look(self, losses: list[float], clock: float, most: int) -> None:
        """Look at the later window, note it, and decide whether to go on.

        What is best is best by NDCG over all ranks: the loss also falls where vectors only become more or less sure of themselves.
        """
        own = self.progress
        found = self.evaluate()
        own.seconds = time.monotonic() - clock
        trained = float(np.mean(losses)) if losses else None
        look = {"step": own.step, "seconds": own.seconds, "train_loss": trained, **found}
        own.curve.append({name: value if value is None or np.isfinite(value) else None for name, value in look.items()})
        if found["ndcg"] > self._ndcg(own.best) or len(own.curve) == 1:
            own.best = len(own.curve) - 1
            self._best = {name: each.detach().clone() for name, each in self._named.items()}
        left = min((most - own.step) * own.seconds / max(own.step, 1), max(0.0, self.pace.seconds - own.seconds))
        log.info(
            "step %d of at most %d: loss %s; later window: loss %.4f, NDCG %.4f (best %.4f at step %d), NDCG@%d %.4f; %s",
            own.step, most, "-" if trained is None else f"{trained:.4f}", found["loss"], found["ndcg"],
            self._ndcg(own.best), own.curve[own.best]["step"], NDCG_AT, found["ndcg_10"],
            f"{own.seconds:.0f} s so far" + (f", at most {left:.0f} s to go" if own.step else ""),
        )  # fmt: skip
        if not np.isfinite(found["loss"]):
            own.ended = "the loss is no longer a number: a lower learning rate or a higher temperature may help"
        elif own.seconds >= self.pace.seconds:
            own.ended = f"the time budget of {self.pace.seconds:g} s is over"
        elif own.step >= most:
            own.ended = f"{self.pace.epochs} epochs are over"
        elif len(own.curve) - 1 - own.best >= self.pace.patience:
            own.ended = f"the later window did not improve in {self.pace.patience} looks"

    def _ndcg(self, look: int) -> float:
        return float(self.progress.curve[look]["ndcg"] or 0.0)

    def evaluate(self) -> dict[str, float]:
        """What the vectors are worth in the later window: its targets among all candidates, what the user had left out.

        Returns:
            `loss`; `ndcg` over all ranks, and `ndcg_10`. Means over users of the means of their pairs, as in a backtest.
        """
        lesson, pairs = self.lesson, self.lesson.stop
        wanted = np.unique(np.append(lesson.candidates, pairs.target))
        documents = np.unique(np.append(wanted, pairs.history[pairs.history >= 0]))
        with torch.no_grad():
            parts = [
                self.way.embed(documents[start : start + DOCUMENTS_AT_ONCE])
                for start in range(0, len(documents), DOCUMENTS_AT_ONCE)
            ]
            embedded = torch.cat(parts)
            queries = mean_of_history(embedded, self._places(documents, pairs.history))
            candidates = embedded[self._places(documents, wanted)]
            mask = torch.from_numpy(
                allowed(lesson.stop_taken, lesson.documents, pairs.user, pairs.target, wanted)
            ).to(self.way.device)  # fmt: skip
            correct = self._places(wanted, pairs.target)
            bias = torch.zeros(len(wanted), device=self.way.device)
            loss = info_nce(queries, candidates, correct, mask, bias, self.pace.temperature)
            scores = (queries @ candidates.T).masked_fill(~mask, -torch.inf)
            # So counted, what is not a number is above the target, not below it.
            rank = (~(scores <= scores.gather(1, correct[:, None]))).sum(dim=1).cpu().numpy()
        gain = 1.0 / np.log2(rank + 2.0)
        found = {"loss": loss.double().cpu().numpy(), "ndcg": gain, "ndcg_10": np.where(rank < NDCG_AT, gain, 0.0)}
        _, person = np.unique(pairs.user, return_inverse=True)
        return {name: float(metrics.user_means(person, values).mean()) for name, values in found.items()}

    def _places(self, documents: Ints, wanted: Ints) -> torch.Tensor:
        """Where each wanted document is among sorted ones; -1 stays."""
        found = np.where(wanted >= 0, np.searchsorted(documents, wanted), NONE)
        return torch.from_numpy(found).to(self.way.device)
