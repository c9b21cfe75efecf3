"""The workloads: each is the behaviour of a client, of which every step is one request.

The share of a client is its part of the home node's memory: managed pages divided by the clients there.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import ClassVar

from numa_client import Allocation, AsyncRegion, AsyncSession, Freed, RegionKind, Touch

from numa_loadgen.plan import LoadPlan
from numa_loadgen.report import Step

#: The service's limit on pages of one region.
_MAX_REGION_PAGES = 1 << 24

#: Workload classes by name, in the order of registration.
WORKLOADS: dict[str, type[Workload]] = {}


def register(cls: type[Workload]) -> type[Workload]:
    """Class decorator that registers a workload under its `name`."""
    WORKLOADS[cls.name] = cls
    return cls


class Workload(ABC):
    """The behaviour of one client in one session. All its random choices come from `choices`."""

    name: ClassVar[str]
    #: One line for --help.
    summary: ClassVar[str]

    def __init__(
        self, plan: LoadPlan, session: AsyncSession, share_pages: int, choices: random.Random
    ) -> None:
        self.plan = plan
        self.session = session
        self.share_pages = share_pages
        self.choices = choices

    @abstractmethod
    async def step(self) -> Step:
        """Send one request. NumaError when it fails."""

    @abstractmethod
    def refused(self) -> None:
        """Called when the last step found no memory: the next steps should free some."""

    async def _alloc(self) -> tuple[Allocation, Step]:
        plan = self.plan
        got = await self.session.alloc(plan.order, plan.count, plan.gfp, policy=plan.policy)
        return got, Step(
            "alloc",
            pages=got.pages_by_node,
            latency_ns=got.latency_ns,
            direct_reclaimed_pages=got.direct_reclaimed_pages,
            remote_lookups=got.remote_lookups,
        )

    async def _free(self, allocation: Allocation) -> Step:
        freed: Freed = await self.session.free(allocation)
        return Step("free", freed_pages=freed.freed_pages, latency_ns=freed.cost.latency_ns)


@register
class AllocFree(Workload):
    """Allocates a batch and frees it: the fast path with full pagesets."""

    name = "alloc-free"
    summary = "allocate a batch, free it, again and again"

    _held: Allocation | None = None

    async def step(self) -> Step:
        """An allocation, or the free of the one before."""
        if self._held is None:
            self._held, step = await self._alloc()
            return step
        held, self._held = self._held, None
        return await self._free(held)

    def refused(self) -> None:
        """Do nothing: when an allocation fails, nothing is held."""


@register
class Fill(Workload):
    """Allocates until refused, frees everything, starts over: fallback, watermarks and out of memory."""

    name = "fill"
    summary = "take memory until refused, give all back, start over"

    def __init__(
        self, plan: LoadPlan, session: AsyncSession, share_pages: int, choices: random.Random
    ) -> None:
        super().__init__(plan, session, share_pages, choices)
        self._held: list[Allocation] = []
        self._draining = False

    async def step(self) -> Step:
        """An allocation; after a refusal, frees until nothing is held."""
        if self._draining and self._held:
            return await self._free(self._held.pop())
        self._draining = False
        allocation, step = await self._alloc()
        self._held.append(allocation)
        return step

    def refused(self) -> None:
        """Free everything in the next steps."""
        self._draining = True


class _Churn(Fill):
    """Holds about a quarter of its share, as allocations freed in random order: fragmentation."""

    async def step(self) -> Step:
        """An allocation, or the free of a random one."""
        batch = self.plan.count << self.plan.order
        room = len(self._held) * batch < self.share_pages // 4
        if self._held and (self._draining or not room or self.choices.random() < 0.4):
            victim = self.choices.randrange(len(self._held))
            self._held[victim], self._held[-1] = self._held[-1], self._held[victim]
            step = await self._free(self._held.pop())
            self._draining = self._draining and bool(self._held)
            return step
        return await super().step()


class _RegionWorkload(Workload):
    """Maps one region and accesses it; after a refusal it unmaps the region and maps another one."""

    kind: ClassVar[RegionKind]
    #: Pages of the region as a multiple of the client's share.
    shares: ClassVar[float]

    _region: AsyncRegion | None = None
    _give_up = False

    async def step(self) -> Step:
        """Map, then touch again and again; after a refusal unmap."""
        if self._region is None:
            wanted = self.plan.region_pages or int(self.share_pages * self.shares)
            nr_pages = min(max(wanted, self.plan.count), _MAX_REGION_PAGES)
            self._region = await self.session.map_region(self.kind, nr_pages, self.plan.policy)
            return Step("map")
        if self._give_up:
            region, self._region, self._give_up = self._region, None, False
            return Step("unmap", freed_pages=await region.unmap())
        first, write = self._access(self._region.nr_pages - self.plan.count)
        touch: Touch = await self._region.touch(first, self.plan.count, write)
        return Step(
            "touch",
            pages=touch.placement,
            latency_ns=touch.latency_ns,
            fault_pages=touch.fault_pages,
            major_fault_pages=touch.major_fault_pages,
            direct_reclaimed_pages=touch.direct_reclaimed_pages,
            remote_lookups=touch.remote_lookups,
        )

    @abstractmethod
    def _access(self, last: int) -> tuple[int, bool]:
        """The first page to access, from 0 to `last`, and whether to write."""

    def refused(self) -> None:
        """Unmap the region in the next step."""
        self._give_up = True


@register
class PageCache(_RegionWorkload):
    """Reads a file larger than memory from end to end, over and over, which keeps kswapd busy."""

    name = "page-cache"
    summary = "stream through a file twice the size of memory, one write in eight"
    kind = "file"
    shares = 2.0

    _next = 0

    def _access(self, last: int) -> tuple[int, bool]:
        first = self._next
        self._next = 0 if first >= last else min(first + self.plan.count, last)
        return first, self.choices.random() < 1 / 8


@register
class Anon(_RegionWorkload):
    """Anonymous memory of the node's size, four of five accesses to a quarter of it: LRU lists and swap."""

    name = "anon"
    summary = "write and read anonymous memory the size of the node, with a hot quarter"
    kind = "anon"
    shares = 1.0

    def _access(self, last: int) -> tuple[int, bool]:
        hot = self.choices.random() < 0.8
        return self.choices.randint(0, last // 4 if hot else last), self.choices.random() < 0.5


class _SomeAnon(Anon):
    shares = 0.25


class _SomePageCache(PageCache):
    shares = 1.0


@register
class Mixed(Workload):
    """A busy machine: page allocations of random lifetime, page cache and anonymous memory together."""

    name = "mixed"
    summary = "page allocations of random lifetime, page cache and anonymous memory, 2:1:1"

    def __init__(
        self, plan: LoadPlan, session: AsyncSession, share_pages: int, choices: random.Random
    ) -> None:
        super().__init__(plan, session, share_pages, choices)
        self._parts: list[Workload] = [
            part(plan, session, share_pages, choices) for part in (_Churn, _SomePageCache, _SomeAnon)
        ]

    async def step(self) -> Step:
        """One step of a part chosen at random."""
        return await self.choices.choices(self._parts, (2, 1, 1))[0].step()

    def refused(self) -> None:
        """Free page allocations and anonymous memory; page cache can be reclaimed anyway."""
        self._parts[0].refused()
        self._parts[2].refused()
