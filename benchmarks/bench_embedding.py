"""How quickly texts become vectors: Tidemark's encoder beside sentence-transformers, and the floor that the matrix products set.

Both encode the same texts with the same weights on the same threads, in turns, so that a busy machine is busy for both.
The floor is the time that the encoder's matrix products alone would take: their floating-point operations on the texts'
real tokens (no padding), at the speed at which this machine multiplies matrices of the encoder's shapes.

Wall seconds are what a user waits for. On a machine that does other work, CPU seconds (--threads 1) tell more.

    python -m benchmarks.bench_embedding --texts 1000
    python -m benchmarks.bench_embedding --texts 300 --threads 1 --repeats 5
"""

import argparse
import statistics
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.processes import REPOSITORY, measure
from include.models.encoder import TextEncoder, resolve
from include.models.products import PackedMatrix
from include.models.texts import item_text
from include.settings import Encoder

SHARED = REPOSITORY.parent / "shared" / "data"


def sample(count: int, seed: int) -> tuple[list[str], str]:
    """Item texts, half rich and half short, and where they come from."""
    rng = np.random.default_rng(seed)
    if SHARED.is_dir():
        import duckdb

        games = duckdb.sql(
            f"select title, genre, doc_text from '{SHARED}/ifdb/game_docs.parquet' order by gameid"
        ).fetchall()
        goods = duckdb.sql(
            f"select distinct Description from '{SHARED}/online_retail/*.parquet' where Description is not null order by 1"
        ).fetchall()
        rich = [item_text(title, [genre] if genre else None, text) for title, genre, text in games]
        short = [item_text(name, None, None) for (name,) in goods]
        picked = [*rng.choice(rich, count - count // 2), *rng.choice(short, count // 2)]
        return [str(text) for text in picked if text], "game descriptions and retail titles of ../shared/data"
    words = np.array(
        [
            "lamp",
            "heart",
            "white",
            "hanging",
            "small",
            "box",
            "of",
            "red",
            "set",
            "garden",
            "tea",
            "light",
            "story",
            "cave",
            "tower",
            "key",
            "long",
        ]
    )
    sizes = np.where(rng.random(count) < 0.5, rng.integers(2, 8, count), rng.integers(40, 200, count))
    return [" ".join(rng.choice(words, size)) for size in sizes], "random words (../shared/data is not here)"


def operations(config: object, lengths: list[int]) -> float:
    """Floating-point operations of the matrix products of a BERT-like encoder, attention included."""
    width, inner, layers = (getattr(config, name) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    dense = 2 * layers * (4 * width * width + 2 * width * inner) * sum(lengths)
    attention = 4 * layers * width * sum(length * length for length in lengths)
    return float(dense + attention)


def products(config: object) -> tuple[Callable[[], object], Callable[[], object], float]:
    """The products of one layer on 4096 tokens, by torch's own and by the packed product, and their operations."""
    width, inner, rows = config.hidden_size, config.intermediate_size, 4096  # type: ignore[attr-defined]
    shapes = [(width, width)] * 4 + [(width, inner), (inner, width)]
    inputs = {size: torch.randn(rows, size) for size in (width, inner)}
    plain = [(inputs[k], torch.randn(n, k)) for k, n in shapes]
    packed = [(rows_, PackedMatrix(matrix)) for rows_, matrix in plain]
    return (
        lambda: [torch.nn.functional.linear(rows_, matrix) for rows_, matrix in plain],
        lambda: [matrix.product(rows_) for rows_, matrix in packed],
        float(sum(2 * rows * k * n for k, n in shapes)),
    )


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=800, help="number of texts (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the matrix products (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each, in turns (default %(default)s)")
    parser.add_argument(
        "--tokens-per-batch", type=int, default=Encoder().tokens_per_batch, help="(default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which texts (default %(default)s)")
    arguments = parser.parse_args()

    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    texts, origin = sample(arguments.texts, arguments.seed)
    folder = resolve(Encoder().source)
    ours = TextEncoder(Encoder(threads=arguments.threads, tokens_per_batch=arguments.tokens_per_batch))
    peer = SentenceTransformer(str(folder), device="cpu")
    torch.set_num_threads(arguments.threads)
    config = AutoConfig.from_pretrained(folder)
    tokens = peer.tokenizer(texts, truncation=True, max_length=min(ours.encoder.max_tokens, peer.max_seq_length))
    lengths = [len(row) for row in tokens["input_ids"]]
    plain, packed, product_operations = products(config)

    def peer_encodes() -> np.ndarray:
        return np.asarray(peer.encode(texts, normalize_embeddings=True, show_progress_bar=False))

    with torch.inference_mode():
        cosine = (ours.encode(texts) * peer_encodes()).sum(axis=1)
        works = {
            "ours": lambda: ours.encode(texts),
            "peer": peer_encodes,
            "plain": lambda: [plain() for _ in range(5)],
            "packed": lambda: [packed() for _ in range(5)],
        }
        works["plain"](), works["packed"]()
        taken = {name: [] for name in works}
        for _ in range(arguments.repeats):
            for name, work in works.items():
                taken[name].append(measure(work))

    total = operations(config, lengths)
    print(
        f"{len(texts)} texts ({origin}), {sum(lengths)} tokens, {arguments.threads} threads, median of {arguments.repeats}"
    )
    print(f"cosine to sentence-transformers: least {cosine.min():.7f}, mean {cosine.mean():.7f}\n")
    print(
        f"{'':34}{'wall s':>9}{'CPU s':>9}{'texts/s':>9}{'x peer':>9}{'of floor':>9}{'x peer CPU':>12}{'of floor CPU':>14}"
    )
    median = {name: [statistics.median(part) for part in zip(*runs, strict=True)] for name, runs in taken.items()}
    floor = {kind: [total / (5 * product_operations) * part for part in median[kind]] for kind in ("plain", "packed")}
    rows = {
        "sentence-transformers, default": median["peer"],
        "Tidemark": median["ours"],
        "floor, torch's own product": floor["plain"],
        "floor, packed product": floor["packed"],
    }
    for name, (wall, cpu) in rows.items():
        print(
            f"{name:34}{wall:9.2f}{cpu:9.2f}{len(texts) / wall:9.0f}{median['peer'][0] / wall:9.2f}"
            f"{floor['packed'][0] / wall:9.2f}{median['peer'][1] / cpu:12.2f}{floor['packed'][1] / cpu:14.2f}"
        )
    speed = {kind: 5 * product_operations / median[kind][0] / 1e9 for kind in ("plain", "packed")}
    print(f"\nproducts alone: {speed['plain']:.0f} GFLOP/s by torch's own, {speed['packed']:.0f} packed (wall)")
    print("goal: at least 1.20 x peer, cosine at least 0.9999")


if __name__ == "__main__":
    main()
