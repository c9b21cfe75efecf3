"""What areas of addresses are, said again without a tree: one list of areas, and holes between them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ReferenceAreas:
    """Areas in [start, end), and which of them wait for a purge."""

    start: int
    end: int
    taken: dict[int, int] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)

    def holes(self) -> list[tuple[int, int]]:
        at, found = self.start, []
        for low in sorted(self.taken):
            if low > at:
                found.append((at, low))
            at = low + self.taken[low]
        if at < self.end:
            found.append((at, self.end))
        return found

    def fitting(self, size: int, align: int, vstart: int, vend: int) -> list[int]:
        """Where `size` bytes fit, lowest first: one address in each hole."""
        found = []
        for low, high in self.holes():
            at = -(-max(low, vstart) // align) * align
            if at + size <= min(high, vend):
                found.append(at)
        return found

    def take(self, at: int, size: int) -> None:
        assert any(low <= at and at + size <= high for low, high in self.holes())
        self.taken[at] = size

    def free(self, at: int) -> None:
        self.waiting.add(at)

    def purge(self) -> None:
        for at in self.waiting:
            del self.taken[at]
        self.waiting.clear()
