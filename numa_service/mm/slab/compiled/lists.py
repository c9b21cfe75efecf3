"""Which slab a page is of; free lists of objects and partial lists of slabs (``mm/slub.c``)."""

from __future__ import annotations

from numa_service.mm.jit import i64, kernel
from numa_service.mm.slab.compiled.data import (
    CACHE_PAD,
    CACHE_SIZE,
    CACHE_SPARE,
    CTL_DIRECT_MAP,
    CTL_DISCARD,
    CTL_DISCARD_LAST,
    CTL_FRAMES,
    FREE_ALREADY_FREE,
    FREE_INVALID_POINTER,
    FREE_NO_SLAB,
    FREE_OK,
    FREE_WRONG_CACHE,
    IN_USE,
    NODE_FIRST,
    NODE_LAST,
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
    SLAB_LINEAGE,
    SLAB_NEXT,
    SLAB_NID,
    SLAB_NODE,
    SLAB_OBJECTS,
    SLAB_ORDER,
    SLAB_PFN,
    SLAB_PREV,
    SlubData,
    slub_at,
)
from numa_service.mm.slab.kmem_cache import PAGE_SHIFT

#: An odd number whose products are spread well: 2^64 divided by the golden ratio (Knuth, volume 3, 6.4).
_SPREAD = -7046029254386353131


@kernel(inline=True)  # slab_pair
def _bucket(frame: int, mask: int) -> int:
    """Where the search for a page begins; eight neighbours, as of one slab, begin next to one another."""
    return (((frame >> 3) * _SPREAD >> 20 << 3) + (frame & 7)) & mask


@kernel(inline=True)  # slab_pair
def find_slab(s: SlubData, frame: int) -> int:
    """The slab that has a page, or NONE (virt_to_slab)."""
    mask = s.frames.shape[0] - 1
    at = _bucket(frame, mask)
    while s.frames[at, 0] != frame + 1:
        if s.frames[at, 0] == 0:
            return i64(NONE)
        at = (at + 1) & mask
    return s.frames[at, 1]


@kernel
def slub_find(address: int, frame: int) -> int:
    """:func:`find_slab` for Python."""
    return find_slab(slub_at(address), frame)


@kernel(inline=True)  # slab_pair
def object_in(s: SlubData, row: int, address: int) -> int:
    """The object of a slab that begins at an address, or NONE (check_valid_pointer)."""
    size = s.caches[s.slabs[row, SLAB_CACHE], CACHE_SIZE]
    offset = address - s.slabs[row, SLAB_ADDRESS]
    if offset < 0:
        return i64(NONE)
    index = offset // size
    if index * size != offset or index >= s.slabs[row, SLAB_OBJECTS]:
        return i64(NONE)
    return s.slabs[row, SLAB_FIRST] + index


@kernel
def slub_home(address: int, object_address: int) -> int:
    """Which home has an object that is not in its slab; 0: none, or no object begins there."""
    s = slub_at(address)
    row = find_slab(s, (object_address - s.ctl[CTL_DIRECT_MAP]) >> PAGE_SHIFT)
    which = object_in(s, row, object_address) if row >= 0 else i64(NONE)
    return i64(s.home[which]) if which >= 0 else i64(0)


@kernel
def slub_not_of_home(address: int, home: int, count: int) -> int:
    """Which of `objects` is the first that a home does not have; `count` if there is none."""
    for i in range(count):
        if slub_home(address, slub_at(address).objects[i]) != home:
            return i
    return count


@kernel
def slub_not_in_slab(address: int, row: int, count: int) -> int:
    """Which of `objects` is the first that does not lie in the pages of a slab; `count` if there is none."""
    s = slub_at(address)
    for i in range(count):
        if find_slab(s, (s.objects[i] - s.ctl[CTL_DIRECT_MAP]) >> PAGE_SHIFT) != row:
            return i
    return count


@kernel
def slub_free_list(address: int, row: int, first: int) -> int:
    """Write the addresses of a list of objects of a slab to `objects`, the first to the end; their number.

    `objects` has room for as many as the slab has, and a list has no more.
    """
    s = slub_at(address)
    size = s.caches[s.slabs[row, SLAB_CACHE], CACHE_SIZE]
    count, at = i64(0), i64(first)
    while at >= 0 and count < s.slabs[row, SLAB_OBJECTS]:
        count += 1
        at = i64(s.link[at])
    at = i64(first)
    for i in range(count - 1, -1, -1):
        s.objects[i] = s.slabs[row, SLAB_ADDRESS] + (at - s.slabs[row, SLAB_FIRST]) * size
        at = i64(s.link[at])
    return count


@kernel
def enter_frames(s: SlubData, row: int) -> None:
    """The pages of a slab are its own now (__folio_set_slab). There is room for them in `frames`."""
    mask = s.frames.shape[0] - 1
    first = s.slabs[row, SLAB_PFN]
    for frame in range(first, first + (i64(1) << s.slabs[row, SLAB_ORDER])):
        at = _bucket(frame, mask)
        while s.frames[at, 0] != 0 and s.frames[at, 0] != frame + 1:
            at = (at + 1) & mask
        s.ctl[CTL_FRAMES] += i64(s.frames[at, 0] == 0)
        s.frames[at, 0] = frame + 1
        s.frames[at, 1] = row


@kernel
def _leave_frames(s: SlubData, row: int) -> None:
    """The pages of a slab are a slab's no more (__folio_clear_slab).

    What comes behind a hole moves up, so that a search can end at the first hole.
    """
    mask = s.frames.shape[0] - 1
    first = s.slabs[row, SLAB_PFN]
    for frame in range(first, first + (i64(1) << s.slabs[row, SLAB_ORDER])):
        hole = _bucket(frame, mask)
        while s.frames[hole, 0] != frame + 1:
            hole = (hole + 1) & mask
        at = (hole + 1) & mask
        while s.frames[at, 0] != 0:
            begin = _bucket(s.frames[at, 0] - 1, mask)
            if (at - begin) & mask >= (at - hole) & mask:
                s.frames[hole, 0] = s.frames[at, 0]
                s.frames[hole, 1] = s.frames[at, 1]
                hole = at
            at = (at + 1) & mask
        s.frames[hole, 0] = 0
        s.ctl[CTL_FRAMES] -= 1


@kernel
def slub_enter_all_frames(address: int, rows: int) -> int:
    """Enter the pages of all slabs that are here into `frames`, which is empty."""
    s = slub_at(address)
    s.ctl[CTL_FRAMES] = 0
    for row in range(rows):
        if s.slabs[row, SLAB_NODE] >= 0:
            enter_frames(s, row)
    return s.ctl[CTL_FRAMES]


@kernel
def slub_add_slab(
    address: int,
    row: int,
    k: int,
    n: int,
    nid: int,
    pfn: int,
    order: int,
    objects: int,
    lineage: int,
    home: int,
) -> int:
    """Pages become a slab with all objects in use, by `home`; here if `n` is not NONE."""
    s = slub_at(address)
    s.slabs[row, SLAB_CACHE] = k
    s.slabs[row, SLAB_FREE] = NONE
    s.slabs[row, SLAB_INUSE] = objects
    s.slabs[row, SLAB_OBJECTS] = objects
    s.slabs[row, SLAB_FROZEN] = 0
    s.slabs[row, SLAB_NODE] = n
    s.slabs[row, SLAB_ADDRESS] = s.ctl[CTL_DIRECT_MAP] + (pfn << PAGE_SHIFT) + s.caches[k, CACHE_PAD]
    s.slabs[row, SLAB_NID] = nid
    s.slabs[row, SLAB_PFN] = pfn
    s.slabs[row, SLAB_ORDER] = order
    s.slabs[row, SLAB_LINEAGE] = lineage
    s.slabs[row, SLAB_HOME] = 0
    first = s.slabs[row, SLAB_FIRST]
    for which in range(first, first + objects):
        s.link[which] = IN_USE
        s.home[which] = home
    if n >= 0:
        enter_frames(s, row)
    return row


@kernel
def slub_remove_slab(address: int, row: int) -> int:
    """A slab is no more; its row is for another of its cache."""
    s = slub_at(address)
    k = s.slabs[row, SLAB_CACHE]
    if s.slabs[row, SLAB_NODE] >= 0:
        _leave_frames(s, row)
    s.slabs[row, SLAB_NODE] = NONE
    s.slabs[row, SLAB_NEXT] = s.caches[k, CACHE_SPARE]
    s.caches[k, CACHE_SPARE] = row
    return row


@kernel(inline=True)  # slab_pair
def check_free(s: SlubData, k: int, address: int, at: int) -> int:
    """FREE_*: whether an object of a cache that is in use begins at an address (free_consistency_checks).

    Its slab and its row are noted in rows[at] and which[at]. `k` is NONE for an object of any cache.
    """
    row = find_slab(s, (address - s.ctl[CTL_DIRECT_MAP]) >> PAGE_SHIFT)
    s.rows[at] = row
    if row < 0:
        return i64(FREE_NO_SLAB)
    if s.slabs[row, SLAB_CACHE] != k and k >= 0:
        return i64(FREE_WRONG_CACHE)
    which = object_in(s, row, address)
    s.which[at] = which
    if which < 0:
        return i64(FREE_INVALID_POINTER)
    return i64(FREE_OK) if s.link[which] == IN_USE else i64(FREE_ALREADY_FREE)


@kernel(inline=True)  # slab_pair
def partial_add(s: SlubData, k: int, n: int, row: int, tail: bool) -> None:
    """A slab goes to one end of a node's partial list (add_partial)."""
    s.nodes[k, n, NODE_NR_PARTIAL] += 1
    first, last = s.nodes[k, n, NODE_FIRST], s.nodes[k, n, NODE_LAST]
    if first < 0:
        s.nodes[k, n, NODE_FIRST] = s.nodes[k, n, NODE_LAST] = row
        s.slabs[row, SLAB_NEXT] = s.slabs[row, SLAB_PREV] = NONE
    elif tail:
        s.slabs[last, SLAB_NEXT] = row
        s.slabs[row, SLAB_PREV] = last
        s.slabs[row, SLAB_NEXT] = NONE
        s.nodes[k, n, NODE_LAST] = row
    else:
        s.slabs[first, SLAB_PREV] = row
        s.slabs[row, SLAB_NEXT] = first
        s.slabs[row, SLAB_PREV] = NONE
        s.nodes[k, n, NODE_FIRST] = row


@kernel(inline=True)  # slab_pair
def partial_del(s: SlubData, k: int, n: int, row: int) -> None:
    """A slab leaves a node's partial list (remove_partial)."""
    s.nodes[k, n, NODE_NR_PARTIAL] -= 1
    before, after = s.slabs[row, SLAB_PREV], s.slabs[row, SLAB_NEXT]
    if before < 0:
        s.nodes[k, n, NODE_FIRST] = after
    else:
        s.slabs[before, SLAB_NEXT] = after
    if after < 0:
        s.nodes[k, n, NODE_LAST] = before
    else:
        s.slabs[after, SLAB_PREV] = before


@kernel(inline=True)  # slab_pair
def take_freelist(s: SlubData, row: int, home: int) -> int:
    """The free objects of a slab go to a CPU of `home`, which may have none (get_freelist).

    If there are none the slab is frozen no more.
    """
    free = s.slabs[row, SLAB_FREE]
    s.slabs[row, SLAB_FREE] = NONE
    s.slabs[row, SLAB_INUSE] = s.slabs[row, SLAB_OBJECTS]
    frozen = i64(free >= 0)
    s.slabs[row, SLAB_FROZEN] = frozen
    s.slabs[row, SLAB_HOME] = frozen * home
    at = i64(free)
    while at >= 0:
        s.home[at] = home
        at = i64(s.link[at])
    return free


@kernel
def discard_slab(s: SlubData, row: int) -> None:
    """An empty slab is counted no more, and noted for the page allocator (discard_slab)."""
    k, n = s.slabs[row, SLAB_CACHE], s.slabs[row, SLAB_NODE]
    s.nodes[k, n, NODE_NR_SLABS] -= 1
    s.nodes[k, n, NODE_OBJECTS] -= s.slabs[row, SLAB_OBJECTS]
    s.slabs[row, SLAB_NEXT] = NONE
    if s.ctl[CTL_DISCARD] < 0:
        s.ctl[CTL_DISCARD] = row
    else:
        s.slabs[s.ctl[CTL_DISCARD_LAST], SLAB_NEXT] = row
    s.ctl[CTL_DISCARD_LAST] = row
