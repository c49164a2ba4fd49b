"""Shows how far a long reading is: a bar for people, a line every few seconds for logs."""

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Progress of reading some bytes, on stderr: a bar where that is a terminal, else lines.

    Args:
        total: bytes to read in all.
        say: takes the lines instead of stderr, and then there is no bar.
    """

    def __init__(self, total: int, say: Callable[[str], None] | None = None) -> None:
        self._total = max(total, 1)
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        show = say is None and sys.stderr.isatty()
        self._bar = tqdm(total=self._total, unit="B", unit_scale=True, file=sys.stderr) if show else None
        self._before = 0
        self._last_line = time.monotonic()

    def at(self, name: str, position: int, rows: int) -> None:
        """Note that `position` bytes and `rows` rows of the file `name` were read."""
        done = self._before + position
        if self._bar is not None:
            self._bar.set_description(name, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._say(f"{name}: {rows:,} rows read, {100 * min(done / self._total, 1):.0f} % of all")

    def file_done(self, size: int) -> None:
        """Note that a file of `size` bytes was read to its end."""
        self._before += size
        if self._bar is not None:
            self._bar.update(self._before - self._bar.n)

    def line(self, text: str) -> None:
        """Say something that is no progress."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            self._say(text)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
