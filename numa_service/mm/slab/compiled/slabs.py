"""What a node does with the slabs in its memory (``struct kmem_cache_node``, ``mm/slub.c``)."""

from __future__ import annotations

from numa_service.mm.jit import flag, i64, kernel
from numa_service.mm.slab.compiled.data import (
    CACHE_CPU_PARTIAL,
    CACHE_DEBUG,
    CACHE_MIN_PARTIAL,
    CACHE_SIZE,
    IN_USE,
    NODE_FIRST,
    NODE_NR_PARTIAL,
    NODE_NR_SLABS,
    NODE_OBJECTS,
    NONE,
    SLAB_ADDRESS,
    SLAB_CACHE,
    SLAB_FIRST,
    SLAB_FREE,
    SLAB_FROZEN,
    SLAB_HOME,
    SLAB_INUSE,
    SLAB_NEXT,
    SLAB_NODE,
    SLAB_OBJECTS,
    SlubData,
    slub_at,
)
from numa_service.mm.slab.compiled.lists import (
    discard_slab,
    object_in,
    partial_add,
    partial_del,
    take_freelist,
)


@kernel(inline=True)  # slab_pair
def push_free(s: SlubData, row: int, which: int) -> None:
    """An object goes on the free list of its slab: it is the next to be allocated."""
    s.link[which] = s.slabs[row, SLAB_FREE]
    s.slabs[row, SLAB_FREE] = which
    s.home[which] = 0


@kernel
def objects_came_back(s: SlubData, row: int, count: int, was_full: bool, home: int) -> bool:
    """What follows when `count` objects were put on the free list of a slab (the end of __slab_free).

    True: it was full, and is frozen now for the partial list of the CPU of `home` that frees. With debugging,
    or if `home` is 0, it goes to the node's list instead.
    """
    k, n = s.slabs[row, SLAB_CACHE], s.slabs[row, SLAB_NODE]
    inuse = s.slabs[row, SLAB_INUSE] - count
    s.slabs[row, SLAB_INUSE] = inuse
    if s.slabs[row, SLAB_FROZEN]:
        return False
    if was_full and home and not s.caches[k, CACHE_DEBUG] and s.caches[k, CACHE_CPU_PARTIAL]:
        s.slabs[row, SLAB_FROZEN] = 1
        s.slabs[row, SLAB_HOME] = home
        return True
    if not inuse and s.nodes[k, n, NODE_NR_PARTIAL] >= s.caches[k, CACHE_MIN_PARTIAL]:
        if not was_full:
            partial_del(s, k, n, row)
        discard_slab(s, row)
    elif was_full:
        partial_add(s, k, n, row, flag(True))
    return False


@kernel
def unfreeze(s: SlubData, row: int, tail: bool) -> None:
    """A slab is no CPU's any more (the end of deactivate_slab)."""
    k, n = s.slabs[row, SLAB_CACHE], s.slabs[row, SLAB_NODE]
    s.slabs[row, SLAB_FROZEN] = 0
    s.slabs[row, SLAB_HOME] = 0
    enough = s.nodes[k, n, NODE_NR_PARTIAL] >= s.caches[k, CACHE_MIN_PARTIAL]
    if not s.slabs[row, SLAB_INUSE] and enough:
        discard_slab(s, row)
    elif s.slabs[row, SLAB_FREE] >= 0:
        partial_add(s, k, n, row, tail)


@kernel
def unfreeze_slabs(s: SlubData, first: int) -> None:
    """Slabs linked by SLAB_NEXT, of any nodes here, come off a CPU's partial list (__unfreeze_partials).

    Empty ones are freed at the end, the last first.
    """
    row = i64(first)
    empty = i64(NONE)
    while row >= 0:
        after = s.slabs[row, SLAB_NEXT]
        k, n = s.slabs[row, SLAB_CACHE], s.slabs[row, SLAB_NODE]
        s.slabs[row, SLAB_FROZEN] = 0
        s.slabs[row, SLAB_HOME] = 0
        enough = s.nodes[k, n, NODE_NR_PARTIAL] >= s.caches[k, CACHE_MIN_PARTIAL]
        if not s.slabs[row, SLAB_INUSE] and enough:
            s.slabs[row, SLAB_NEXT] = empty
            empty = row
        else:
            partial_add(s, k, n, row, flag(True))
        row = after
    while empty >= 0:
        after = s.slabs[empty, SLAB_NEXT]
        discard_slab(s, empty)
        empty = after


@kernel
def take_partial_slabs(s: SlubData, k: int, n: int, home: int) -> int:
    """Slabs of a node's partial list that a CPU of `home` gets, linked by SLAB_NEXT, or NONE.

    The first is for the CPU at once, the others for its partial list: of these there are as many as make more
    than half of what the CPU keeps (get_partial_node).
    """
    first = s.nodes[k, n, NODE_FIRST]
    if first < 0:
        return i64(NONE)
    keeps = s.caches[k, CACHE_CPU_PARTIAL]
    left = i64(2) + keeps // 2 if keeps else i64(1)
    row, last = first, first
    while row >= 0 and left > 0:
        after = s.slabs[row, SLAB_NEXT]
        partial_del(s, k, n, row)
        s.slabs[row, SLAB_FROZEN] = 1
        s.slabs[row, SLAB_HOME] = home
        last = row
        row = after
        left -= 1
    s.slabs[last, SLAB_NEXT] = NONE
    return first


@kernel
def take_one_object(s: SlubData, k: int, n: int, home: int) -> int:
    """One object of a node's first partial slab, or NONE, with debugging (alloc_single_from_partial)."""
    row = s.nodes[k, n, NODE_FIRST]
    if row < 0:
        return i64(NONE)
    which = i64(s.slabs[row, SLAB_FREE])
    s.slabs[row, SLAB_FREE] = s.link[which]
    s.slabs[row, SLAB_INUSE] += 1
    s.link[which] = IN_USE
    s.home[which] = home
    if s.slabs[row, SLAB_FREE] < 0:
        partial_del(s, k, n, row)
    return which


# for Python: one call each


@kernel
def hand_out(s: SlubData, row: int, free: int, count: int) -> None:
    """Write the addresses of a list of `count` free objects of a slab to `objects`, the first to the end."""
    size = s.caches[s.slabs[row, SLAB_CACHE], CACHE_SIZE]
    at = i64(free)
    while at >= 0:
        count -= 1
        s.objects[count] = s.slabs[row, SLAB_ADDRESS] + (at - s.slabs[row, SLAB_FIRST]) * size
        after = i64(s.link[at])
        s.link[at] = IN_USE
        at = after


@kernel
def slub_new_slab(address: int, row: int, home: int) -> int:
    """A slab gets its objects, which `objects` has by number, those to be allocated first first.

    They go to a CPU of `home`, with debugging one of them. The result is how many addresses `objects` has
    then, the next to be allocated last (the end of allocate_slab, alloc_single_from_new_slab).
    """
    s = slub_at(address)
    k, n = s.slabs[row, SLAB_CACHE], s.slabs[row, SLAB_NODE]
    count = s.slabs[row, SLAB_OBJECTS]
    s.nodes[k, n, NODE_NR_SLABS] += 1
    s.nodes[k, n, NODE_OBJECTS] += count
    s.slabs[row, SLAB_FREE] = NONE
    for i in range(count - 1, -1, -1):
        push_free(s, row, s.slabs[row, SLAB_FIRST] + s.objects[i])
    if not s.caches[k, CACHE_DEBUG]:
        free = take_freelist(s, row, home)
        s.slabs[row, SLAB_FROZEN] = 1
        s.slabs[row, SLAB_HOME] = home
        hand_out(s, row, free, count)
        return count
    which = i64(s.slabs[row, SLAB_FREE])
    s.slabs[row, SLAB_FREE] = s.link[which]
    s.slabs[row, SLAB_INUSE] = 1
    s.slabs[row, SLAB_FROZEN] = 0
    s.slabs[row, SLAB_HOME] = 0
    s.link[which] = NONE
    s.home[which] = home
    hand_out(s, row, which, i64(1))
    if s.slabs[row, SLAB_FREE] >= 0:
        partial_add(s, k, n, row, flag(False))
    return i64(1)


@kernel
def slub_get_partial(address: int, k: int, n: int, home: int) -> int:
    """Partial slabs for a CPU of another place: their number; `rows` has them, `objects` those of the first.

    With debugging there is one slab with one object, and the slab stays (get_partial_node).
    """
    s = slub_at(address)
    if s.caches[k, CACHE_DEBUG]:
        row = s.nodes[k, n, NODE_FIRST]
        which = take_one_object(s, k, n, home)
        if which < 0:
            return i64(0)
        s.rows[0] = row
        s.link[which] = NONE
        hand_out(s, row, which, i64(1))
        return i64(1)
    row = take_partial_slabs(s, k, n, home)
    count = i64(0)
    while row >= 0 and count < s.rows.shape[0]:
        s.rows[count] = row
        count += 1
        row = s.slabs[row, SLAB_NEXT]
    if count:
        slub_get_freelist(address, s.rows[0], home)
    return count


@kernel
def slub_get_freelist(address: int, row: int, home: int) -> int:
    """The free objects of a frozen slab go to a CPU of another place; `objects` has them (get_freelist)."""
    s = slub_at(address)
    count = s.slabs[row, SLAB_OBJECTS] - s.slabs[row, SLAB_INUSE]
    hand_out(s, row, take_freelist(s, row, home), count)
    return count


@kernel
def _came_back(s: SlubData, row: int, count: int, first: bool) -> None:
    """Put `objects` on a slab's free list, so that the first or the last of them is the next."""
    for i in range(count):
        push_free(s, row, object_in(s, row, s.objects[count - 1 - i if first else i]))


@kernel
def slub_slab_free(address: int, row: int, count: int, home: int) -> int:
    """`objects` come back to a slab, the first is the next to be allocated; whether `home` gets the slab."""
    s = slub_at(address)
    was_full = s.slabs[row, SLAB_FREE] < 0
    _came_back(s, row, count, flag(True))
    return i64(objects_came_back(s, row, count, was_full, home))


@kernel
def slub_deactivate_slab(address: int, row: int, count: int) -> int:
    """A CPU gives back a slab with `objects` left, the next to be allocated last (deactivate_slab)."""
    s = slub_at(address)
    tail = s.slabs[row, SLAB_FREE] >= 0
    _came_back(s, row, count, flag(False))
    s.slabs[row, SLAB_INUSE] -= count
    unfreeze(s, row, tail)
    return count


@kernel
def slub_unfreeze(address: int, count: int) -> int:
    """The slabs in `rows` come off the partial list of a CPU, in that order."""
    s = slub_at(address)
    for i in range(count):
        s.slabs[s.rows[i], SLAB_NEXT] = s.rows[i + 1] if i + 1 < count else i64(NONE)
    if count:
        unfreeze_slabs(s, s.rows[0])
    return count


@kernel
def slub_discard_slab(address: int, row: int) -> int:
    """:func:`discard_slab` for Python."""
    discard_slab(slub_at(address), row)
    return row
