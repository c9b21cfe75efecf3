"""gfp_t: which zones an allocation may use and what it may do (``include/linux/gfp_types.h``, 6.1's bits)."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

from numa_service.mm.mmzone import MIGRATE_MOVABLE, MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE, zone_index


class Gfp(IntEnum):
    """The ``__GFP_*`` bits. Composite masks are in :data:`GFP_MASKS`.

    An IntEnum, as `&` of an IntFlag takes a microsecond.
    """

    DMA = 0x01
    HIGHMEM = 0x02
    DMA32 = 0x04
    MOVABLE = 0x08
    RECLAIMABLE = 0x10
    HIGH = 0x20
    IO = 0x40
    FS = 0x80
    ZERO = 0x100
    ATOMIC = 0x200
    DIRECT_RECLAIM = 0x400
    KSWAPD_RECLAIM = 0x800
    WRITE = 0x1000
    NOWARN = 0x2000
    RETRY_MAYFAIL = 0x4000
    NOFAIL = 0x8000
    NORETRY = 0x10000
    MEMALLOC = 0x20000
    COMP = 0x40000
    NOMEMALLOC = 0x80000
    HARDWALL = 0x100000
    THISNODE = 0x200000
    ACCOUNT = 0x400000
    ZEROTAGS = 0x800000
    SKIP_ZERO = 0x1000000
    SKIP_KASAN = 0x2000000
    NOLOCKDEP = 0x8000000


_RECLAIM = Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM
_KERNEL = _RECLAIM | Gfp.IO | Gfp.FS
_USER = _KERNEL | Gfp.HARDWALL
_HIGHUSER = _USER | Gfp.HIGHMEM
_HIGHUSER_MOVABLE = _HIGHUSER | Gfp.MOVABLE
_TRANSHUGE_LIGHT = (_HIGHUSER_MOVABLE | Gfp.COMP | Gfp.NOMEMALLOC | Gfp.NOWARN) & ~_RECLAIM

#: Composite masks, by the name that tracepoints print (``include/trace/events/mmflags.h``).
GFP_MASKS: dict[str, int] = {
    "GFP_ATOMIC": Gfp.HIGH | Gfp.ATOMIC | Gfp.KSWAPD_RECLAIM,
    "GFP_KERNEL": _KERNEL,
    "GFP_KERNEL_ACCOUNT": _KERNEL | Gfp.ACCOUNT,
    "GFP_NOWAIT": Gfp.KSWAPD_RECLAIM,
    "GFP_NOIO": _RECLAIM,
    "GFP_NOFS": _RECLAIM | Gfp.IO,
    "GFP_USER": _USER,
    "GFP_DMA": Gfp.DMA,
    "GFP_DMA32": Gfp.DMA32,
    "GFP_HIGHUSER": _HIGHUSER,
    "GFP_HIGHUSER_MOVABLE": _HIGHUSER_MOVABLE | Gfp.SKIP_KASAN,
    "GFP_TRANSHUGE_LIGHT": _TRANSHUGE_LIGHT,
    "GFP_TRANSHUGE": _TRANSHUGE_LIGHT | Gfp.DIRECT_RECLAIM,
    "__GFP_RECLAIM": _RECLAIM,
}

GFP_KERNEL = int(GFP_MASKS["GFP_KERNEL"])
GFP_ATOMIC = int(GFP_MASKS["GFP_ATOMIC"])
GFP_HIGHUSER_MOVABLE = int(GFP_MASKS["GFP_HIGHUSER_MOVABLE"])

_BY_NAME: dict[str, int] = {name: int(mask) for name, mask in GFP_MASKS.items()} | {
    f"__GFP_{flag.name}": int(flag) for flag in Gfp
}
_BY_NAME["none"] = 0


@lru_cache(maxsize=1024)
def parse_gfp(text: str) -> int:
    """Parse gfp flag names joined by ``|``, as tracepoints print them; an empty text is GFP_KERNEL.

    Hexadecimal numbers are accepted too, since tracepoints print bits without a name so. ValueError names the
    first word that is not known.
    """
    if not text.strip():
        return GFP_KERNEL
    bits = 0
    for word in text.split("|"):
        name = word.strip()
        if name in _BY_NAME:
            bits |= _BY_NAME[name]
        elif name.startswith("0x"):
            try:
                bits |= int(name, 16)
            except ValueError:
                raise ValueError(f"unknown gfp flag {name!r}") from None
        else:
            raise ValueError(f"unknown gfp flag {name!r}")
    if bits & ~int(sum(Gfp)):
        raise ValueError(f"unknown gfp bits {bits & ~int(sum(Gfp)):#x}")
    return bits


def gfp_migratetype(gfp: int, mobility_disabled: bool = False) -> int:
    """Migratetype that a request asks for (``gfp_migratetype``)."""
    if mobility_disabled:
        return MIGRATE_UNMOVABLE
    if gfp & Gfp.MOVABLE:
        return MIGRATE_MOVABLE
    return MIGRATE_RECLAIMABLE if gfp & Gfp.RECLAIMABLE else MIGRATE_UNMOVABLE


@lru_cache(maxsize=1024)
def gfp_zone(gfp: int, arch: str) -> int:
    """Highest zone index that a request may use (``gfp_zone``).

    ValueError when the zone modifiers contradict each other (GFP_ZONE_BAD).
    """
    modifiers = gfp & (Gfp.DMA | Gfp.HIGHMEM | Gfp.DMA32)
    if modifiers & (modifiers - 1):
        raise ValueError("contradictory zone modifiers: at most one of __GFP_DMA, __GFP_DMA32, __GFP_HIGHMEM")
    if gfp & Gfp.MOVABLE and gfp & Gfp.HIGHMEM:
        return zone_index(arch, "Movable")
    if gfp & Gfp.HIGHMEM:
        return zone_index(arch, "HighMem" if arch == "i386" else "Normal")
    if gfp & Gfp.DMA:
        return zone_index(arch, "DMA")
    if gfp & Gfp.DMA32:
        return zone_index(arch, "DMA32" if arch == "x86_64" else "Normal")
    return zone_index(arch, "Normal")
