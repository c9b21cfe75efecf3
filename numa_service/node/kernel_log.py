"""The kernel's log on one node: what it printed since it booted (``kernel/printk/printk.c``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

#: Bytes of text that are kept, the newest; as CONFIG_LOG_BUF_SHIFT of 17 says.
LOG_BUF_BYTES = 1 << 17


class LogLine(NamedTuple):
    """One line."""

    #: When it was printed, by the clock of the node that printed it.
    ns: int
    #: KERN_ERR (3), KERN_WARNING (4), KERN_INFO (6).
    level: int
    text: str


class KernelLog(deque[LogLine]):
    """The lines, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def add(self, lines: Iterable[LogLine]) -> None:
        """Append lines, and forget the oldest ones when there are too many."""
        for line in lines:
            self.append(line)
            self._bytes += len(line.text)
        while self._bytes > LOG_BUF_BYTES:
            self._bytes -= len(self.popleft().text)

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        return [tuple(line) for line in self]

    def load(self, dumped: list[Any]) -> None:
        """Replace the content by what :meth:`dump` returned."""
        self.clear()
        self._bytes = 0
        self.add(LogLine(*line) for line in dumped)
