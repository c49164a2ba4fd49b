"""What embedding with an encoder takes: run as a process of its own, so that its peak of memory is its own.

    python -m include.steps.encoder_cost < REQUEST.json

REQUEST holds `encoder` (settings), `prefix` and `texts`; the answer is a line of JSON.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from include.errors import TidemarkError
from include.settings import REPOSITORY, Encoder

MB = 1e6


def measured(encoder: Encoder, texts: list[str]) -> dict[str, Any]:
    """Load an encoder and embed item texts with it, in a process of its own.

    Returns:
        `texts_per_second` (the weights are loaded before), `load_seconds`, and `peak_mb`, the most resident memory of the process.

    Raises:
        TidemarkError: the process failed; its last line says why.
    """
    request = json.dumps({
        "encoder": encoder.model_dump(),
        "artefacts": None if encoder.artefacts is None else str(encoder.artefacts),
        "prefix": encoder.item_prefix,
        "texts": texts,
    })  # fmt: skip
    command = [sys.executable, "-m", "include.steps.encoder_cost"]
    done = subprocess.run(command, input=request, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode != 0:
        raise TidemarkError(
            f"encoder {encoder.source} could not be measured: {(done.stderr.strip() or f'exit {done.returncode}').splitlines()[-1]}"
        )
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def _peak_mb() -> float:
    """The most resident memory of this process; `getrusage` would count what its parent held at the fork."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MB for line in status if line.startswith("VmHWM:"))


def _main() -> None:
    from include.models.encoder import TextEncoder

    request = json.load(sys.stdin)
    start = time.perf_counter()
    settings = Encoder(**request["encoder"])
    encoder = TextEncoder(settings if request["artefacts"] is None else settings.at(Path(request["artefacts"])))
    loaded = time.perf_counter()
    encoder.encode(request["texts"][:1], prefix=request["prefix"])  # the first call is slower than the rest
    warm = time.perf_counter()
    encoder.encode(request["texts"], prefix=request["prefix"])
    seconds = time.perf_counter() - warm
    answer = {
        "texts_per_second": len(request["texts"]) / max(seconds, 1e-9),
        "load_seconds": loaded - start,
        "peak_mb": _peak_mb(),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
