"""What a CPU does: allocations and frees of objects, many in one call (``mm/slub.c``)."""

from __future__ import annotations

from numa_service.mm.jit import i64, kernel
from numa_service.mm.slab.compiled.data import (
    CACHE_CPU_PARTIAL,
    CACHE_DEBUG,
    CACHE_SIZE,
    CPU_FREE,
    CPU_NR_PARTIAL,
    CPU_PARTIAL,
    CPU_SLAB,
    CTL_BACK,
    CTL_BACK_LAST,
    CTL_GROUP,
    CTL_LEFT,
    CTL_NEED,
    CTL_ROW,
    CTL_RUNS,
    CTL_WRONG,
    FREE_NO_SLAB,
    FREE_OK,
    FREE_TWICE,
    FREEING,
    IN_USE,
    NEED_DEACTIVATE,
    NEED_FREELIST,
    NEED_NOTHING,
    NEED_PARTIAL,
    NEED_PUT_BACK,
    NEED_SLAB,
    NODE_FIRST,
    NONE,
    SLAB_ADDRESS,
    SLAB_CACHE,
    SLAB_FIRST,
    SLAB_FREE,
    SLAB_INUSE,
    SLAB_NEXT,
    SLAB_NID,
    SLAB_NODE,
    SlubData,
    slub_at,
)
from numa_service.mm.slab.compiled.lists import check_free, object_in, take_freelist
from numa_service.mm.slab.compiled.slabs import (
    objects_came_back,
    push_free,
    take_one_object,
    take_partial_slabs,
    unfreeze,
    unfreeze_slabs,
)

#: The object of another slab at which a search for more of one slab ends (build_detached_freelist).
_LOOKAHEAD = 3


# -- allocation


@kernel
def deactivate(s: SlubData, k: int, c: int) -> None:
    """A CPU gives back its slab with the objects left on its list (deactivate_slab).

    These stand before what others freed meanwhile. The slab goes to the end of the partial list if others
    did, and to its head if not; it is freed if it is empty and the node has enough.
    """
    row, free = s.cpus[k, c, CPU_SLAB], s.cpus[k, c, CPU_FREE]
    s.cpus[k, c, CPU_SLAB] = NONE
    s.cpus[k, c, CPU_FREE] = NONE
    before = s.slabs[row, SLAB_FREE]
    if free >= 0:
        s.slabs[row, SLAB_FREE] = free
        last, count = i64(free), i64(0)
        while True:
            s.home[last] = 0
            count += 1
            after = i64(s.link[last])
            if after < 0:
                break
            last = after
        s.link[last] = before
        s.slabs[row, SLAB_INUSE] -= count
    unfreeze(s, row, before >= 0)


@kernel(inline=True)  # slab_pair
def _push_partial(s: SlubData, k: int, c: int, row: int) -> None:
    """A slab becomes the first of a CPU's partial list."""
    s.slabs[row, SLAB_NEXT] = s.cpus[k, c, CPU_PARTIAL]
    s.cpus[k, c, CPU_PARTIAL] = row
    s.cpus[k, c, CPU_NR_PARTIAL] += 1


@kernel(inline=True)  # slab_pair
def _use(s: SlubData, k: int, c: int, row: int, home: int) -> None:
    """A slab with free objects becomes the CPU's."""
    s.cpus[k, c, CPU_FREE] = take_freelist(s, row, home)
    s.cpus[k, c, CPU_SLAB] = row if s.cpus[k, c, CPU_FREE] >= 0 else i64(NONE)


@kernel
def _use_partial(s: SlubData, k: int, c: int, n: int, home: int) -> bool:
    """A CPU without a slab gets partial slabs of a node; whether there were any (get_partial_node)."""
    first = take_partial_slabs(s, k, n, home)
    if first < 0:
        return False
    row = s.slabs[first, SLAB_NEXT]
    while row >= 0:
        after = s.slabs[row, SLAB_NEXT]
        _push_partial(s, k, c, row)
        row = after
    _use(s, k, c, first, home)
    return True


@kernel
def slub_use_partial(address: int, k: int, c: int, n: int, home: int) -> int:
    """:func:`_use_partial` for Python, of any node."""
    return i64(_use_partial(slub_at(address), k, c, n, home))


@kernel(inline=True)  # slab_pair
def _another_slab(s: SlubData, k: int, c: int, nid: int, home: int) -> int:
    """The CPU's list has no object that is wanted: one step towards a slab that has (___slab_alloc).

    NEED_NOTHING: a step was taken; NEED_SLAB: neither the CPU nor its partial list has a slab.
    """
    row = s.cpus[k, c, CPU_SLAB]
    if row >= 0:
        here = s.slabs[row, SLAB_NODE] >= 0
        s.ctl[CTL_ROW] = row
        if nid >= 0 and s.slabs[row, SLAB_NID] != nid:
            if not here:
                return i64(NEED_DEACTIVATE)
            deactivate(s, k, c)
            return i64(NEED_NOTHING)
        s.cpus[k, c, CPU_SLAB] = NONE
        if not here:
            return i64(NEED_FREELIST)
        _use(s, k, c, row, home)
        return i64(NEED_NOTHING)
    row = s.cpus[k, c, CPU_PARTIAL]
    if row < 0:
        return i64(NEED_SLAB)
    here = s.slabs[row, SLAB_NODE] >= 0
    s.ctl[CTL_ROW] = row
    s.cpus[k, c, CPU_PARTIAL] = s.slabs[row, SLAB_NEXT]
    s.cpus[k, c, CPU_NR_PARTIAL] -= 1
    if nid >= 0 and s.slabs[row, SLAB_NID] != nid:
        if not here:
            return i64(NEED_PUT_BACK)
        unfreeze(s, row, s.slabs[row, SLAB_FREE] >= 0)
        return i64(NEED_NOTHING)
    if not here:
        return i64(NEED_FREELIST)
    _use(s, k, c, row, home)
    return i64(NEED_NOTHING)


@kernel
def alloc_objects(
    s: SlubData, k: int, c: int, nid: int, n: int, searched: bool, home: int, count: int
) -> int:
    """Up to `count` objects for a CPU, of node `nid` if it is one (slab_alloc_node).

    Addresses are in `objects`, their slabs in `rows`; runs of one slab begin where `which` says. `n` is the
    node whose partial slabs are looked for, or NONE if it is another place; `searched`: they were sought in
    vain. ctl has what is needed for more.
    """
    got, runs = i64(0), i64(0)
    s.ctl[CTL_NEED] = NEED_NOTHING
    debug = s.caches[k, CACHE_DEBUG]
    size = s.caches[k, CACHE_SIZE]
    while got < count:
        free = i64(s.cpus[k, c, CPU_FREE])
        row = s.cpus[k, c, CPU_SLAB]
        if free >= 0 and (nid < 0 or s.slabs[row, SLAB_NID] == nid):
            s.which[runs] = got
            runs += 1
            first = s.slabs[row, SLAB_FIRST]
            base = s.slabs[row, SLAB_ADDRESS]
            while free >= 0 and got < count:
                s.objects[got] = base + (free - first) * size
                s.rows[got] = row
                after = i64(s.link[free])
                s.link[free] = IN_USE
                free = after
                got += 1
            s.cpus[k, c, CPU_FREE] = free
            continue
        need = _another_slab(s, k, c, nid, home)
        if need == NEED_NOTHING:
            continue
        if need == NEED_SLAB and not searched:
            if n < 0:
                need = i64(NEED_PARTIAL)
            elif debug:
                row = s.nodes[k, n, NODE_FIRST]
                which = take_one_object(s, k, n, home)
                if which >= 0:
                    s.objects[got] = s.slabs[row, SLAB_ADDRESS] + (which - s.slabs[row, SLAB_FIRST]) * size
                    s.rows[got] = row
                    s.which[runs] = got
                    runs += 1
                    got += 1
                    continue
            elif _use_partial(s, k, c, n, home):
                continue
        s.ctl[CTL_NEED] = need
        break
    s.ctl[CTL_RUNS] = runs
    return got


@kernel
def slub_alloc(address: int, k: int, c: int, nid: int, n: int, searched: int, home: int, count: int) -> int:
    """:func:`alloc_objects` for Python."""
    return alloc_objects(slub_at(address), k, c, nid, n, searched != 0, home, count)


@kernel
def slub_install(address: int, k: int, c: int, row: int, home: int, count: int) -> int:
    """A CPU without a slab gets one with the free objects in `objects`, the next to be allocated last.

    NONE, and nothing is changed, if one of them is not an object of the slab that the CPU's home has at hand.
    """
    s = slub_at(address)
    here = s.slabs[row, SLAB_NODE] >= 0
    good = True
    for i in range(count):
        which = object_in(s, row, s.objects[i])
        s.which[i] = which
        if which < 0 or (here and s.home[which] != home) or s.link[which] != IN_USE:
            good = False
            count = i
            break
        s.link[which] = FREEING  # found again if it is named twice
    free = i64(NONE)
    for i in range(count):
        s.link[s.which[i]] = free if good else i64(IN_USE)
        free = s.which[i]
    if not good:
        return i64(NONE)
    s.cpus[k, c, CPU_SLAB] = row
    s.cpus[k, c, CPU_FREE] = free
    return count


# -- freeing


@kernel(inline=True)  # slab_pair
def _put_cpu_partial(s: SlubData, k: int, c: int, row: int) -> None:
    """A frozen slab goes on a CPU's partial list; one that is full goes back first (put_cpu_partial)."""
    if s.cpus[k, c, CPU_NR_PARTIAL] >= s.caches[k, CACHE_CPU_PARTIAL]:
        full = s.cpus[k, c, CPU_PARTIAL]
        s.cpus[k, c, CPU_PARTIAL] = NONE
        s.cpus[k, c, CPU_NR_PARTIAL] = 0
        _push_partial(s, k, c, row)
        leave_partial(s, full)
    else:
        _push_partial(s, k, c, row)


@kernel
def leave_partial(s: SlubData, first: int) -> None:
    """Slabs linked by SLAB_NEXT come off a CPU's list: those that are here at once, others to CTL_BACK."""
    row = i64(first)
    mine, last = i64(NONE), i64(NONE)
    while row >= 0:
        after = s.slabs[row, SLAB_NEXT]
        s.slabs[row, SLAB_NEXT] = NONE
        if s.slabs[row, SLAB_NODE] >= 0:
            if last < 0:
                mine = row
            else:
                s.slabs[last, SLAB_NEXT] = row
            last = row
        else:
            if s.ctl[CTL_BACK] < 0:
                s.ctl[CTL_BACK] = row
            else:
                s.slabs[s.ctl[CTL_BACK_LAST], SLAB_NEXT] = row
            s.ctl[CTL_BACK_LAST] = row
        row = after
    unfreeze_slabs(s, mine)


@kernel
def check_objects(s: SlubData, k: int, count: int) -> int:
    """FREE_*: whether all of `objects` are in use, and of the cache if `k` is one.

    CTL_WRONG says which is not. The rows that :func:`free_objects` needs are noted. Nothing is changed.
    """
    for i in range(count):
        wrong = check_free(s, k, s.objects[i], i)
        if wrong != FREE_OK:
            s.ctl[CTL_WRONG] = i
            return wrong
    marked = i64(count)
    for i in range(count):
        if s.link[s.which[i]] == FREEING:
            marked = i
            break
        s.link[s.which[i]] = FREEING
    for i in range(marked):
        s.link[s.which[i]] = IN_USE
    s.ctl[CTL_WRONG] = marked
    return i64(FREE_OK) if marked == count else i64(FREE_TWICE)


@kernel
def free_objects(s: SlubData, c: int, home: int, count: int) -> int:
    """Objects come back, together those that are of one slab and near in the sequence, the last first.

    Before it `objects`, `rows` and `which` say what they are; a slab that is of another place and that the
    CPU does not have is a number below NONE. The result is how many are left to be freed later: when it comes
    to such a slab, CTL_GROUP counts its objects, behind those that are left, the next to be allocated first;
    and it stops when slabs of other places came off the CPU's partial list. (do_slab_free, __slab_free,
    build_detached_freelist)
    """
    s.ctl[CTL_GROUP] = 0
    while count > 0 and s.ctl[CTL_BACK] < 0:
        row = s.rows[count - 1]
        k, mine, was_full = i64(0), False, False
        if row >= 0:
            k = s.slabs[row, SLAB_CACHE]
            mine = s.cpus[k, c, CPU_SLAB] == row
            was_full = s.slabs[row, SLAB_FREE] < 0
        at, same, lookahead, found = count - 1, count - 1, i64(_LOOKAHEAD), i64(0)
        while True:
            if s.rows[at] == row:
                which = s.which[at]
                if mine:
                    s.link[which] = s.cpus[k, c, CPU_FREE]
                    s.cpus[k, c, CPU_FREE] = which
                elif row >= 0:
                    push_free(s, row, which)
                if found:
                    same -= 1
                    if same != at:
                        address = s.objects[at]
                        s.objects[at], s.rows[at], s.which[at] = s.objects[same], s.rows[same], s.which[same]
                        s.objects[same], s.rows[same], s.which[same] = address, row, which
                found += 1
            else:
                lookahead -= 1
                if lookahead == 0:
                    break
            if at == 0:
                break
            at -= 1
        count -= found
        if row < 0:
            s.ctl[CTL_GROUP] = found
            break
        if not mine and objects_came_back(s, row, found, was_full, home):
            _put_cpu_partial(s, k, c, row)
    return count


@kernel
def slub_free_located(address: int, c: int, home: int, count: int) -> int:
    """Free `objects`, if all are of slabs here, and CTL_LEFT of them are left for later (free_objects).

    Else how many are of no slab here, or NONE, and CTL_WRONG, if `home` does not have one in use: nothing is
    freed. The rows that :func:`free_objects` needs are noted; NONE for those of no slab.
    """
    s = slub_at(address)
    elsewhere = i64(0)
    for i in range(count):
        wrong = check_free(s, i64(NONE), s.objects[i], i)
        if wrong == FREE_NO_SLAB:
            elsewhere += 1
        elif wrong != FREE_OK or s.home[s.which[i]] != home:
            s.ctl[CTL_WRONG] = i
            return i64(NONE)
    if not elsewhere:
        s.ctl[CTL_LEFT] = free_objects(s, c, home, count)
    return elsewhere


@kernel
def slub_check_objects(address: int, k: int, count: int) -> int:
    """:func:`check_objects` for Python."""
    return check_objects(slub_at(address), k, count)


@kernel
def slub_free_objects(address: int, c: int, home: int, count: int) -> int:
    """:func:`free_objects` for Python."""
    return free_objects(slub_at(address), c, home, count)


@kernel
def slub_free(address: int, k: int, c: int, home: int, object_address: int) -> int:
    """Check and free one object; FREE_* if it is not freed (kmem_cache_free)."""
    s = slub_at(address)
    wrong = check_free(s, k, object_address, i64(0))
    if wrong == FREE_OK:
        s.objects[0] = object_address
        free_objects(s, c, home, i64(1))
    return wrong


@kernel
def slub_flush(address: int, k: int, c: int) -> int:
    """A CPU's slab and partial list go back to nodes that are here (flush_cpu_slab).

    Slabs of other places on its list are in CTL_BACK; its slab may not be of one.
    """
    s = slub_at(address)
    if s.cpus[k, c, CPU_SLAB] >= 0:
        deactivate(s, k, c)
    first = s.cpus[k, c, CPU_PARTIAL]
    s.cpus[k, c, CPU_PARTIAL] = NONE
    s.cpus[k, c, CPU_NR_PARTIAL] = 0
    leave_partial(s, first)
    return first


@kernel
def slub_put_cpu_partial(address: int, k: int, c: int, row: int, drain: int) -> int:
    """A slab goes on a CPU's partial list, and with `drain` a full list goes back first (put_cpu_partial)."""
    s = slub_at(address)
    if drain:
        _put_cpu_partial(s, k, c, row)
    else:
        _push_partial(s, k, c, row)
    return row


@kernel
def slub_let_go(address: int, k: int, c: int) -> int:
    """A CPU lets go of its slab, and of the objects on its list, which stay with its home.

    `objects` has their addresses, the next to be allocated last; the result is how many.
    """
    s = slub_at(address)
    row, free = s.cpus[k, c, CPU_SLAB], i64(s.cpus[k, c, CPU_FREE])
    s.cpus[k, c, CPU_SLAB] = NONE
    s.cpus[k, c, CPU_FREE] = NONE
    count, at = i64(0), free
    while at >= 0:
        count += 1
        at = i64(s.link[at])
    left, at = count, free
    while at >= 0:
        left -= 1
        size = s.caches[k, CACHE_SIZE]
        s.objects[left] = s.slabs[row, SLAB_ADDRESS] + (at - s.slabs[row, SLAB_FIRST]) * size
        after = i64(s.link[at])
        s.link[at] = IN_USE
        at = after
    return count
