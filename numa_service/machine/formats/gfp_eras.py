"""gfp flags of old kernels: their numbers, whose bits have moved, and their names as masks of the model.

Since 4.6 a kernel prints the names beside the number, and the names are what counts. Before that there is
only the number, with two sets of bits: up to 4.3 ``__GFP_WAIT`` was one bit, and since 4.4 direct reclaim,
waking kswapd and being atomic are a bit each (``include/linux/gfp.h``).
"""

from __future__ import annotations

from numa_service.mm.gfp import GFP_MASKS, Gfp

#: First version whose numbers have the bits of :data:`_RECLAIM_BITS`.
_SPLIT_RECLAIM = (4, 4)
_RECLAIM = Gfp.DIRECT_RECLAIM | Gfp.KSWAPD_RECLAIM

#: First version that prints names beside the number.
_PRINTS_NAMES = (4, 6)

#: Bits that have been the same in both.
_ALWAYS = {
    0x1: Gfp.DMA,
    0x2: Gfp.HIGHMEM,
    0x4: Gfp.DMA32,
    0x8: Gfp.MOVABLE,
    0x20: Gfp.HIGH,
    0x40: Gfp.IO,
    0x80: Gfp.FS,
    0x200: Gfp.NOWARN,
    0x400: Gfp.RETRY_MAYFAIL,
    0x800: Gfp.NOFAIL,
    0x1000: Gfp.NORETRY,
    0x2000: Gfp.MEMALLOC,
    0x4000: Gfp.COMP,
    0x8000: Gfp.ZERO,
    0x10000: Gfp.NOMEMALLOC,
    0x20000: Gfp.HARDWALL,
    0x40000: Gfp.THISNODE,
}
_WAIT_BIT = _ALWAYS | {0x10: _RECLAIM, 0x80000: Gfp.RECLAIMABLE}
_RECLAIM_BITS = _ALWAYS | {
    0x10: Gfp.RECLAIMABLE,
    0x80000: Gfp.ATOMIC,
    0x100000: Gfp.ACCOUNT,
    0x400000: Gfp.DIRECT_RECLAIM,
    0x2000000: Gfp.KSWAPD_RECLAIM,
}

#: Names of other kernels for what the model has under another name.
_OTHER_NAMES: dict[str, int] = {
    "GFP_TEMPORARY": GFP_MASKS["GFP_KERNEL"] | Gfp.RECLAIMABLE,
    "__GFP_WAIT": _RECLAIM,
    "__GFP_REPEAT": Gfp.RETRY_MAYFAIL,
}
#: Names without a meaning for where pages come from.
_WITHOUT_EFFECT = {"__GFP_COLD", "__GFP_NOTRACK", "__GFP_OTHER_NODE", "__GFP_NO_OBJ_EXT", "__GFP_SKIP_KASAN"}
_NAMES: dict[str, int] = (
    {name: int(mask) for name, mask in GFP_MASKS.items()}
    | {f"__GFP_{flag.name}": int(flag) for flag in Gfp}
    | _OTHER_NAMES
    | dict.fromkeys(_WITHOUT_EFFECT, 0)
    | {"none": 0}
)


def gfp_of_names(text: str) -> tuple[int, tuple[str, ...]]:
    """The mask of flag names joined by ``|`` as any kernel since 4.6 prints them, and the unknown ones."""
    words = text.split("|")
    gfp = 0
    for word in words:
        gfp |= _NAMES.get(word, 0)
    return gfp, tuple(word for word in words if word not in _NAMES)


def number_of_gfp(gfp: int, series: tuple[int, ...]) -> int:
    """The number that a kernel prints for flags, with the bits of its time (inverse of gfp_of_number).

    Kernels since 4.6 print names too: their number is that of 6.1.
    """
    if series >= _PRINTS_NAMES:
        return gfp
    number = 0
    for bit, mask in (_RECLAIM_BITS if series >= _SPLIT_RECLAIM else _WAIT_BIT).items():
        if gfp & mask == mask:
            number |= bit
    return number


def gfp_of_number(number: int, version: tuple[int, int] | None) -> int:
    """The mask of a number that a kernel before 4.6 printed; bits without a meaning here are left out.

    If the version is not known, a bit that only the newer set has tells the sets apart.
    """
    newer = version >= _SPLIT_RECLAIM if version else bool(number & 0x2400000)
    gfp = 0
    for bit, mask in (_RECLAIM_BITS if newer else _WAIT_BIT).items():
        if number & bit:
            gfp |= mask
    if not newer and number and not gfp & Gfp.DIRECT_RECLAIM:
        # gfp_to_alloc_flags() of those kernels: a request that must not wait is an atomic one
        gfp |= Gfp.ATOMIC | Gfp.KSWAPD_RECLAIM
    return gfp
