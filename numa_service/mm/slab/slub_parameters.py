"""What the kernel's command line says about SLUB: ``slub_debug``, ``slub_min_order`` and the like."""

from __future__ import annotations

import re
from dataclasses import dataclass

from numa_service.mm.slab.flags import DEBUG_DEFAULT_FLAGS, NO_FLAGS, SlabFlag

#: Largest order that ``slub_max_order`` can ask for (MAX_ORDER - 1, later MAX_PAGE_ORDER).
MAX_ORDER = 10
#: ``slub_max_order`` of a kernel that is not told one (PAGE_ALLOC_COSTLY_ORDER).
COSTLY_ORDER = 3

_LETTERS = {
    "f": SlabFlag.CONSISTENCY_CHECKS,
    "z": SlabFlag.RED_ZONE,
    "p": SlabFlag.POISON,
    "u": SlabFlag.STORE_USER,
    "t": SlabFlag.TRACE,
    "a": SlabFlag.FAILSLAB,
}
_NUMBER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|\d+)")


@dataclass(frozen=True, slots=True)
class DebugBlock:
    """One part of ``slub_debug``: flags for the caches whose names match."""

    flags: SlabFlag
    #: Names; "*" at the end of one stands for any rest. Empty: all caches.
    names: tuple[str, ...] = ()

    def matches(self, cache: str) -> bool:
        """Whether the list of names has this cache (the search of kmem_cache_flags)."""
        for name in self.names:
            stem, star, _ = name.partition("*")
            if cache.startswith(stem) if star else cache == name:
                return True
        return False


@dataclass(frozen=True, slots=True)
class SlubDebug:
    """``slub_debug``: blocks separated by ";", each of letters and, after a comma, names of caches."""

    #: Flags of caches that no list names.
    everywhere: SlabFlag = NO_FLAGS
    #: Blocks with a list of names, in the order written: the first that matches counts.
    listed: tuple[DebugBlock, ...] = ()
    #: "O": a cache whose least order debugging would raise gets no metadata (disable_higher_order_debug).
    keep_order: bool = False

    def kmem_cache_flags(self, name: str, flags: SlabFlag) -> SlabFlag:
        """Flags of a cache with what debugging adds to those that its creator passed (kmem_cache_flags)."""
        for block in self.listed:
            if block.matches(name):
                return flags | block.flags
        everywhere = self.everywhere
        if SlabFlag.NOLEAKTRACE in flags:  # caches of kmemleak itself
            everywhere &= ~SlabFlag.STORE_USER
        return flags | everywhere


def parse_slub_debug(value: str, *, one_prefix: bool = False) -> SlubDebug:
    """The value of ``slub_debug=``; "" is the parameter without a value (setup_slub_debug).

    A letter that is unknown is passed over, as the kernel does. `one_prefix`: there is one block only, and
    what follows its comma is how names of caches begin.
    """
    if not value:
        return SlubDebug(everywhere=DEBUG_DEFAULT_FLAGS)
    everywhere, listed, keep_order = NO_FLAGS, [], False
    for text in [value] if one_prefix else filter(None, value.split(";")):
        letters, comma, names = text.partition(",")
        flags = NO_FLAGS
        if not letters:  # names alone
            flags = DEBUG_DEFAULT_FLAGS
        for letter in letters.lower():
            if letter == "-":
                flags = NO_FLAGS
            elif letter == "o":
                keep_order = True
            else:
                flags |= _LETTERS.get(letter, NO_FLAGS)
        if comma:
            listed.append(DebugBlock(flags, (f"{names}*",) if one_prefix else tuple(names.split(","))))
        else:
            everywhere = flags
    return SlubDebug(everywhere, tuple(listed), keep_order)


@dataclass(frozen=True, slots=True)
class SlubParameters:
    """The parameters of SLUB, with the defaults of a kernel that is told nothing."""

    min_order: int = 0
    max_order: int = COSTLY_ORDER
    #: Objects that a slab should have; 0 leaves it to the number of CPUs.
    min_objects: int = 0
    nomerge: bool = False
    debug: SlubDebug = SlubDebug()


def get_option(value: str) -> int:
    """The number that a value starts with, or 0 (get_option)."""
    found = _NUMBER.match(value)
    return int(found[0], 16 if "x" in found[0].lower() else 10) if found else 0


@dataclass(frozen=True, slots=True)
class ParameterRules:
    """What kernel versions make of the parameters."""

    #: Parameters that forbid merging.
    nomerge: tuple[str, ...]
    #: Parameters that allow it.
    merge: tuple[str, ...]
    #: Each parameter has a second name that starts with ``slab_`` instead of ``slub_``.
    renamed: bool
    #: When the least order is above the largest, what is written later wins and moves the other; else both
    #: stay.
    orders_agree: bool
    #: ``slub_debug`` has one block, with one prefix of names.
    debug_one_prefix: bool


_RENAMED = ("slab_debug", "slab_min_order", "slab_max_order", "slab_min_objects")


def slub_parameters(cmdline: str, rules: ParameterRules) -> SlubParameters:
    """The parameters in a command line, read from left to right; other words are passed over."""
    min_order, max_order, min_objects, nomerge, debug = 0, COSTLY_ORDER, 0, False, SlubDebug()
    for word in cmdline.split():
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if rules.renamed and key in _RENAMED:
            key = "slub" + key.removeprefix("slab")
        if key in rules.nomerge:
            nomerge = True
        elif key in rules.merge:
            nomerge = False
        elif key == "slub_debug":
            debug = parse_slub_debug(value, one_prefix=rules.debug_one_prefix)
        elif key == "slub_min_objects" and equals:
            min_objects = get_option(value)
        elif key == "slub_min_order" and equals:
            min_order = get_option(value)
            if rules.orders_agree:
                max_order = max(min_order, max_order)
        elif key == "slub_max_order" and equals:
            max_order = min(get_option(value), MAX_ORDER)
            if rules.orders_agree:
                min_order = min(min_order, max_order)
    return SlubParameters(min_order, max_order, min_objects, nomerge, debug)
