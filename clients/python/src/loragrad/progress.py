"""A progress bar for big uploads, on stderr, for people only."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager

_WIDTH = 24
_REDRAW_SECONDS = 0.1


class UploadBar(AbstractContextManager["UploadBar"]):
    """Draws `label [#####     ] 12.3 / 64.0 MB` while `advance` is called; wipes it at the end.

    Shows nothing below `min_bytes`, or when stderr is not a terminal.
    """

    def __init__(self, label: str, total: int, min_bytes: int):
        self._label = label
        self._total = total
        self._sent = 0
        self._drawn_at = 0.0
        # There is no stderr at all under pythonw and some daemons.
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._visible = total >= min_bytes and terminal

    def advance(self, nbytes: int) -> None:
        self._sent += nbytes
        now = time.monotonic()
        if not self._visible or (
            now - self._drawn_at < _REDRAW_SECONDS and self._sent < self._total
        ):
            return
        self._drawn_at = now
        filled = _WIDTH * self._sent // self._total
        bar = "#" * filled + " " * (_WIDTH - filled)
        sent, total = self._sent / 1e6, self._total / 1e6
        sys.stderr.write(f"\r{self._label} [{bar}] {sent:.1f} / {total:.1f} MB")
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self._visible:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
