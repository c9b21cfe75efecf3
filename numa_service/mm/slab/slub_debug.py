"""What SLUB's checks find in objects that were written to where they should not be (``check_object``).

Contents of memory are not modelled. Known are the bytes that somebody says were written in front of an
object, behind it, or to it when it was free; a check compares them with what debugging has put there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from numa_service.mm.slab.flags import SlabFlag
from numa_service.mm.slab.reports import pointer
from numa_service.mm.slab.slub import SlubCache, SlubRules
from numa_service.mm.slab.slub_reports import slab_bug, slab_fix
from numa_service.mm.slab.slub_work_rules import SlubWorkRules

#: Padding, a free object, and the last byte of one (include/linux/poison.h).
POISON_INUSE = 0x5A
POISON_FREE = 0x6B
POISON_END = 0xA5
#: Red zones of free objects, and of those in use.
RED_INACTIVE = 0xBB
RED_ACTIVE = 0xCC


class Part(NamedTuple):
    """Bytes of one value around an object, or in one that is free."""

    what: str
    #: Offsets [start, end) from the object.
    start: int
    end: int
    value: int
    #: An object in which they are wrong is not freed, or not allocated.
    bad: bool = True


class Checked(NamedTuple):
    """The result of a check of an object or a slab."""

    good: bool
    #: The lines that the kernel prints.
    report: list[str]
    #: Offsets of bytes that are right again.
    restored: set[int]


def extent(cache: SlubCache) -> tuple[int, int]:
    """Offsets [start, end) from an object of all that is its own: red zones, padding, metadata."""
    return -cache.red_left_pad, cache.size - cache.red_left_pad


def free_pointer(cache: SlubCache, rules: SlubRules, inuse: bool) -> range:
    """Offsets of the free pointer, if a check looks at it: one within an object only while that is free."""
    if cache.offset < cache.inuse and inuse:
        return range(0)
    return range(cache.offset, cache.offset + rules.arch.word)


def parts(cache: SlubCache, rules: SlubRules, work: SlubWorkRules, inuse: bool) -> Iterator[Part]:
    """Yield the parts that a check of an object looks at, in order (check_object, check_pad_bytes)."""
    size, flags = cache.object_size, cache.flags
    if SlabFlag.RED_ZONE in flags:
        red = RED_ACTIVE if inuse else RED_INACTIVE
        yield Part(work.left_redzone, -cache.red_left_pad, 0, red)
        yield Part(work.right_redzone, size, cache.inuse, red)
    elif SlabFlag.POISON in flags:
        yield Part("Alignment padding", size, cache.inuse, POISON_INUSE, bad=work.all_is_checked)
    if SlabFlag.POISON not in flags:
        return
    poisoned = SlabFlag.TYPESAFE_BY_RCU not in flags and not cache.args.ctor  # __OBJECT_POISON
    if poisoned and not inuse:
        yield Part("Poison", 0, size - 1, POISON_FREE)
        yield Part(work.end_poison, size - 1, size, POISON_END)
    end = cache.inuse + (rules.arch.word if cache.offset >= cache.inuse else 0)
    if SlabFlag.STORE_USER in flags:
        end += 2 * rules.track_bytes
        if SlabFlag.KMALLOC in flags and rules.keeps_request_size:
            end += 4  # sizeof(unsigned int)
    yield Part("Object padding", end, extent(cache)[1], POISON_INUSE, bad=work.all_is_checked)


def check_object(
    cache: SlubCache,
    rules: SlubRules,
    work: SlubWorkRules,
    written: Mapping[int, int],
    *,
    address: int,
    slab_address: int,
    inuse: bool,
) -> Checked:
    """Check an object to which `written` was written, by offset; what is found wrong is restored."""
    good, report, restored = True, list[str](), set[int]()
    for part in parts(cache, rules, work, inuse):
        wrong = [at for at in sorted(written) if part.start <= at < part.end and written[at] != part.value]
        if not wrong:
            continue
        first, last = address + wrong[0], address + wrong[-1]
        where = f" @offset={first - slab_address}" if work.tells_offset else ""
        what = f"{part.what} " if work.tells_restored else ""
        report += [
            slab_bug(cache.name, f"{part.what} overwritten"),
            f"{work.report_prefix}0x{pointer(first)}-0x{pointer(last)}{where}. "
            f"First byte {written[wrong[0]]:#x} instead of {part.value:#x}",
            slab_fix(cache.name, f"Restoring {what}0x{pointer(first)}-0x{pointer(last)}={part.value:#x}"),
        ]
        restored.update(wrong)
        good = good and not part.bad
        if not good and not work.all_is_checked:
            return Checked(False, report, restored)
    link = [at for at in free_pointer(cache, rules, inuse) if at in written]
    if any(written[at] for at in link):  # NULL is a pointer that is right
        report.append(slab_bug(cache.name, "Freepointer corrupt"))
        good = False
    return Checked(good, report, restored.union(link))


def matters(cache: SlubCache, rules: SlubRules, work: SlubWorkRules, inuse: bool, at: int, byte: int) -> bool:
    """Whether a byte that is written at an offset is one that a check finds."""
    looked_at = parts(cache, rules, work, inuse)
    wrong = any(part.start <= at < part.end and byte != part.value for part in looked_at)
    return wrong or at in free_pointer(cache, rules, inuse)


def all_objects_used(cache: SlubCache) -> str:
    """The last line when a free object is bad: its slab is used no more (alloc_debug_processing)."""
    return slab_fix(cache.name, "Marking all objects used")
