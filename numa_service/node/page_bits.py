"""Pages that somebody has locked or writes: PG_locked and PG_writeback, with who set them."""

from __future__ import annotations

from typing import Any

#: The bits, by the kernel's names.
LOCKED = "locked"
WRITEBACK = "writeback"
BITS = (LOCKED, WRITEBACK)


class PageBits:
    """The bits that are set: (pfn, bit) → the session that set it."""

    def __init__(self) -> None:
        self._set: dict[tuple[int, str], int] = {}

    def __len__(self) -> int:
        return len(self._set)

    def holder(self, pfn: int, bit: str) -> int | None:
        """Return the session that has set a page's bit; None if it is not set."""
        return self._set.get((pfn, bit))

    def set(self, pfn: int, bit: str, session: int) -> None:
        """Set a page's bit."""
        self._set[pfn, bit] = session

    def clear(self, pfn: int, bit: str) -> None:
        """Clear a page's bit."""
        del self._set[pfn, bit]

    def end(self, session: int) -> None:
        """Clear every bit that a session has set, at its end."""
        for key in [key for key, whose in self._set.items() if whose == session]:
            del self._set[key]

    def names(self, pfn: int) -> list[str]:
        """Return the bits of a page that are set."""
        return [bit for bit in BITS if (pfn, bit) in self._set]

    def all(self) -> tuple[tuple[int, str], ...]:
        """Return every bit that is set, as (pfn, bit)."""
        return tuple(self._set)

    def dump(self) -> list[Any]:
        """Return all of it as plain data, which :meth:`load` reads."""
        return [[pfn, bit, session] for (pfn, bit), session in self._set.items()]

    def load(self, dumped: list[Any]) -> None:
        """Replace all of it by what :meth:`dump` returned."""
        self._set = {(pfn, bit): session for pfn, bit, session in dumped}
