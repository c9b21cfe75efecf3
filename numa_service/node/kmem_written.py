"""Bytes around objects of SLUB that were written to by mistake, as one node knows them.

Of an object that a session holds, its home knows them; of a free one the node that has the slab.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numa_service.mm.slab.flags import DEBUG_FLAGS, SlabFlag
from numa_service.mm.slab.pages import page_address
from numa_service.mm.slab.profile import SlubProfile
from numa_service.mm.slab.slub import SlubCache
from numa_service.mm.slab.slub_debug import Checked, all_objects_used, check_object, extent, matters
from numa_service.mm.slab.slub_node import OWN_HOME, KmemCacheNode, NodeSlabs
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.mm.slab.slub_reports import not_freed
from numa_service.node.errors import InvalidRequest, TooMany
from numa_service.node.session_state import Held

#: Bytes that a node keeps.
MAX_WRITTEN = 1 << 16


class WrittenBytes:
    """By address of an object and offset from it, the bytes that a check would find wrong."""

    def __init__(self, profile: SlubProfile, slabs: NodeSlabs) -> None:
        """None are known. `slabs` are those of the node."""
        self._about = profile.rules, profile.work
        self._arch = profile.rules.arch
        self._slabs = slabs
        self.of: dict[int, dict[int, int]] = {}
        #: Objects that were free in a slab which is used no more, as one was found bad: nobody gets them.
        self.unusable: dict[int, SlabRef] = {}

    def write(self, cache: SlubCache, address: int, offset: int, data: bytes, inuse: bool) -> None:
        """Bytes are written; those that make it right again are forgotten. InvalidRequest, TooMany."""
        start, end = extent(cache)
        if not start <= offset or offset + len(data) > end:
            what = f"{len(data)} bytes at {offset} are not within {start}…{end} of an object of {cache.name}"
            raise InvalidRequest("offset", what)
        if not cache.flags & DEBUG_FLAGS:
            return  # nobody would ever look
        now = dict(self.of.get(address, {}))
        for at, byte in enumerate(data, offset):
            now.pop(at, None)
            if matters(cache, *self._about, inuse, at, byte):
                now[at] = byte
        others = sum(len(known) for at, known in self.of.items() if at != address)
        if others + len(now) > MAX_WRITTEN:
            raise TooMany(f"a node keeps {MAX_WRITTEN} bytes that were written around objects")
        self._keep(address, now)

    def check_held(self, cache: SlubCache, slab: SlabRef, address: int) -> tuple[str, ...]:
        """What is reported of an object that is to be freed; none if it can be (free_consistency_checks)."""
        if SlabFlag.CONSISTENCY_CHECKS not in cache.flags:
            return ()
        found = self._check(cache, address, page_address(slab.pfn, self._arch), inuse=True)
        return () if found.good else (*found.report, not_freed(cache.name, address))

    def validate(self, cache: SlubCache, node: KmemCacheNode, held: Mapping[int, Held]) -> tuple[str, ...]:
        """What is reported of a cache's free objects here, and of those that are held (validate_slab_cache).

        Of slabs of this node those on the partial list are checked, with STORE_USER all; a slab is left at
        its first bad object. Of held objects of other nodes' slabs all are.
        """
        partial, all_slabs = set(node.partial), SlabFlag.STORE_USER in cache.flags
        bad: set[tuple[int, int]] = set()
        report: list[str] = []
        for address in sorted(self.of):
            slab, of = self._slabs.virt_to_slab(address), held.get(address)
            if slab is not None:
                mine = slab.cache.name == cache.name and (all_slabs or slab.pfn in partial)
                where = self._slabs.nid, slab.pfn
            elif of is not None:
                mine = of.cache == cache.name
                where = of.slab.nid, of.slab.pfn
            else:
                continue
            if mine and where not in bad:
                found = self._check(cache, address, page_address(where[1], self._arch), inuse=of is not None)
                report += found.report
                if not found.good:
                    bad.add(where)
        return tuple(report)

    def set_bad_aside(self, cache: SlubCache, node: KmemCacheNode) -> tuple[str, ...]:
        """Check the object that is allocated next; a slab in which it is bad is used no more.

        The result is what the kernel prints (alloc_debug_processing).
        """
        report: list[str] = []
        while self.of and node.debug and SlabFlag.CONSISTENCY_CHECKS in cache.flags and node.partial:
            slab = node.slab(node.partial[0])
            free = slab.freelist
            if free[-1] not in self.of:
                break
            found = self._check(cache, free[-1], slab.address, inuse=False)
            report += found.report
            if found.good:
                break
            report.append(all_objects_used(cache))
            node.partial = node.partial[1:]
            slab.freelist = []
            self.forget(free)
            for address in free:
                self._slabs.place.set_home(address, OWN_HOME)
                self.unusable[address] = SlabRef(slab.pfn, self._slabs.nid, self._slabs.lineage)
        return tuple(report)

    def _check(self, cache: SlubCache, address: int, slab_address: int, inuse: bool) -> Checked:
        """Check an object, and keep of it what the kernel does not restore."""
        written = self.of.get(address, {})
        found = check_object(
            cache, *self._about, written, address=address, slab_address=slab_address, inuse=inuse
        )
        self._keep(address, {at: byte for at, byte in written.items() if at not in found.restored})
        return found

    def forget(self, addresses: Iterable[int]) -> None:
        """Objects come back, or are lost: what is around them is written anew."""
        if self.of:
            for address in addresses:
                self.of.pop(address, None)

    def _keep(self, address: int, written: dict[int, int]) -> None:
        if written:
            self.of[address] = written
        else:
            self.of.pop(address, None)

    def dump(self) -> list[Any]:
        """All of it as plain data."""
        written = [(address, sorted(of.items())) for address, of in sorted(self.of.items())]
        return [written, list(self.unusable.items())]

    def load(self, dumped: list[Any]) -> None:
        """Read what :meth:`dump` returned."""
        written, unusable = dumped
        self.of = {address: dict(of) for address, of in written}
        self.unusable = {address: SlabRef(*slab) for address, slab in unusable}
