"""Long replies, kept short: most of their bytes are page numbers, which come in runs of equal steps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

#: Serialised replies from so many bytes on are worth it, for askers whose replies take so many already:
#: it takes as long as a tenth of the request.
FOLD_BYTES = 2048
FOLD_FROM_BYTES = 32 << 20


class _Runs:
    """A list of 64-bit numbers as its first one and runs of equal steps."""

    __slots__ = ("_ends", "_first", "_nr_steps", "_steps")

    def __init__(
        self, numbers: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], ends: npt.NDArray[np.intp]
    ) -> None:
        """`ends`: places of steps that the next one differs from."""
        self._first = int(numbers[0])
        self._nr_steps = len(steps)
        self._ends = ends
        #: Of each run but the last; and of that.
        self._steps = steps[ends], int(steps[-1])

    def __len__(self) -> int:
        return self._ends.nbytes + self._steps[0].nbytes

    def __bytes__(self) -> bytes:
        steps = np.append(*self._steps)
        lengths = np.diff(self._ends, prepend=-1, append=self._nr_steps - 1)
        return np.cumsum(np.append(self._first, np.repeat(steps, lengths)), dtype="<i8").tobytes()


class Folded:
    """A serialised message in parts; `len` is what it takes, in bytes, `bytes` the message."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[bytes | _Runs]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __bytes__(self) -> bytes:
        return b"".join(map(bytes, self._parts))


def fold(packed: bytes, lists: Iterable[tuple[int, int]]) -> bytes | Folded:
    """`packed`, a serialised reply, or the same with its page numbers in less than half of their bytes.

    `lists` are [start, end) of the lists of 64-bit page numbers in it, ascending.
    """
    parts: list[bytes | _Runs] = []
    at = 0
    for start, end in lists:
        runs = _runs(packed[start:end])
        if runs is not None:
            parts += packed[at:start], runs
            at = end
    return Folded([*parts, packed[at:]]) if parts else packed


def _runs(pfns: bytes) -> _Runs | None:
    """None when it would not make them half as long."""
    if len(pfns) < FOLD_BYTES // 2:
        return None
    numbers = np.frombuffer(pfns, dtype="<i8")
    steps = numbers[1:] - numbers[:-1]
    changes = steps[1:] != steps[:-1]
    if 32 * np.count_nonzero(changes) > len(pfns):
        return None
    return _Runs(numbers, steps, np.flatnonzero(changes))
