"""Sizes of huge pages that a kernel has pools of (``struct hstate``)."""

from __future__ import annotations

from dataclasses import dataclass

from numa_service.mm.mmzone import NR_ORDERS, PAGE_SHIFT

#: kB of a huge page that a PMD entry maps, and of one that a PUD entry maps, which i386 cannot.
PMD_KB = 2048
PUD_KB = 1 << 20


@dataclass(frozen=True, slots=True)
class Hstate:
    """One size of huge pages."""

    #: kB of a huge page.
    kb: int

    @property
    def order(self) -> int:
        """log2 of the pages of a huge page (huge_page_order)."""
        return (self.kb >> (PAGE_SHIFT - 10)).bit_length() - 1

    @property
    def gigantic(self) -> bool:
        """Whether the buddy system has no blocks of this size (hstate_is_gigantic)."""
        return self.order >= NR_ORDERS

    @property
    def name(self) -> str:
        """The name of its folder in sysfs."""
        return f"hugepages-{self.kb}kB"
