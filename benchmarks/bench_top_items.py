"""What it costs to find each user's best items, beside the bare matrix product.

The same random unit vectors go through: torch's matrix product in the same chunks, with nothing kept (the bare product);
Tidemark's `top_items`, plain and with seen items left out; torch's product with its own topk; and faiss IndexFlatIP, where
that is installed. They run in turns, so that a busy machine is busy for all. On a machine that does other work, CPU seconds
(--threads 1) tell more than wall seconds.

    python -m benchmarks.bench_top_items
    python -m benchmarks.bench_top_items --users 2000 --threads 1 --chunk 256
"""

import argparse
import importlib.util
import statistics
from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import csr_array

from benchmarks.processes import measure
from include.models.interests import unit
from include.models.products import PackedMatrix
from include.models.scoring import top_items
from include.settings import Settings


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "users": 20_000,
        "items": 20_000,
        "dimensions": 384,
        "k": 100,
        "repeats": 3,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch and faiss (default %(default)s)")
    parser.add_argument(
        "--chunk",
        type=int,
        default=Settings.model_fields["users_per_chunk"].default,
        help="users in one product (default %(default)s, that of the settings)",
    )
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(arguments.seed)
    users, items = (unit(rng.standard_normal((n, arguments.dimensions))) for n in (arguments.users, arguments.items))
    k, chunk = min(arguments.k, arguments.items), arguments.chunk
    seen = rng.integers(0, arguments.items, (arguments.users, 50))
    excluded = csr_array(
        (np.ones(seen.size, dtype=bool), (np.repeat(np.arange(arguments.users), 50), seen.ravel())),
        shape=(arguments.users, arguments.items),
    )
    transposed = torch.from_numpy(np.ascontiguousarray(items.T))
    room = torch.empty((chunk, arguments.items))

    def bare() -> None:
        for part in torch.from_numpy(users).split(chunk):
            torch.mm(part, transposed, out=room[: len(part)])

    def bare_packed() -> None:
        matrix = PackedMatrix(torch.from_numpy(items))
        for part in torch.from_numpy(users).split(chunk):
            matrix.product(part)

    def with_topk() -> None:
        for part in torch.from_numpy(users).split(chunk):
            torch.topk(torch.mm(part, transposed, out=room[: len(part)]), k, sorted=False)

    works: dict[str, Callable[[], object]] = {
        "bare product (torch.mm)": bare,
        "bare product (packed)": bare_packed,
        "top_items": lambda: top_items(users, items, k, chunk=chunk),
        "top_items, 50 seen left out": lambda: top_items(users, items, k, excluded=excluded, chunk=chunk),
        "torch.mm + torch.topk unsorted": with_topk,
    }
    if importlib.util.find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(arguments.threads)
        index = faiss.IndexFlatIP(arguments.dimensions)
        index.add(items)
        works["faiss IndexFlatIP"] = lambda: index.search(users, k)
        few = users[:500]
        same = np.mean(
            [
                len(set(a) & set(b)) / k
                for a, b in zip(top_items(few, items, k)[0], index.search(few, k)[1], strict=True)
            ]
        )
        print(f"share of the top {k} in common with faiss (500 users): {same:.5f}")
    for work in works.values():
        work()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(arguments.repeats):
        for name, work in works.items():
            taken[name].append(measure(work))

    median = {name: [statistics.median(part) for part in zip(*runs, strict=True)] for name, runs in taken.items()}
    base = median["bare product (torch.mm)"]
    print(
        f"{arguments.users} users x {arguments.items} items x {arguments.dimensions}, top {k}, chunks of {chunk}, "
        f"{arguments.threads} threads, median of {arguments.repeats}\n"
    )
    print(f"{'':34}{'wall s':>9}{'CPU s':>9}{'x bare':>9}{'x bare CPU':>12}")
    for name, (wall, cpu) in median.items():
        print(f"{name:34}{wall:9.2f}{cpu:9.2f}{wall / base[0]:9.2f}{cpu / base[1]:12.2f}")
    print("\ngoal: top_items at most 1.50 x bare")


if __name__ == "__main__":
    main()
