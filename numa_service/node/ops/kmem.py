"""Ops of slab caches: what a CPU's node does, and what it asks the node that has a slab for."""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from numa_service.machine.record import ChangedCache, SlabCaches
from numa_service.mm.slab.pages import NUMA_NO_NODE
from numa_service.mm.slab.slab import tunables_are_sane
from numa_service.mm.slab.slub_place import SlabRef
from numa_service.node.errors import InvalidRequest, Precondition, SlabBug, TooMany, UnknownObject
from numa_service.node.kmem_calls import (
    GIVING,
    CpuAlloc,
    GiveBack,
    KmemAnswer,
    Question,
    Shutdown,
    pack,
    unpack,
)
from numa_service.node.kmem_state import MAX_OBJECTS
from numa_service.node.ops.fields import MAX_INT64, MAX_NODE_PAGES, check_below, check_nid, check_owner
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.session_state import Held, Session
from numa_service.node.state import NodeState

#: Objects that one request may allocate or free.
MAX_REQUEST_OBJECTS = 1 << 12
#: Most bytes of one write around an object.
MAX_WRITE_BYTES = 1 << 12
#: Objects of a slab, and slabs that pass between nodes at once, are fewer.
_MAX_PASSED = 1 << 16


class KmemAllocResult(NamedTuple):
    """What a CPU got, and what is to be asked of other nodes."""

    #: Packed addresses, which the session holds now.
    objects: bytes
    back: tuple[GiveBack, ...]
    #: As in `kmem_state.CpuAlloc`.
    need: str = ""
    slab: SlabRef | None = None
    nid: int = -1
    most: int = 0
    direct: bool = False
    report: tuple[str, ...] = ()


def check_cache(node: NodeState, name: str) -> None:
    """Check that the machine has a slab cache of this name: others may not know yet that it has gone."""
    if not node.kmem.knows(name):
        raise Precondition(f"no slab cache is called {name!r:.80}")


def check_slab_order(node: NodeState, name: str, order: int) -> None:
    """Check that slabs of a cache can have this order.

    Precondition: the asker may know another cache by this name, which was destroyed, or this node may.
    """
    least, most = node.kmem.orders(name)
    if not least <= order <= most:
        raise Precondition(f"order {order}: slabs of {name} have {least} to {most}")


def check_own_cpu(node: NodeState, cpu: int) -> None:
    """Check that a CPU is one of this node."""
    if cpu not in node.pgdat.cpus:
        raise InvalidRequest("cpu", f"{cpu} is not a CPU of node {node.nid}")


def check_objects(objects: bytes) -> None:
    """Check that packed addresses are a sequence of 64-bit numbers, and not too many."""
    if len(objects) % 8:
        raise InvalidRequest("objects", f"{len(objects)} bytes: not a sequence of 64-bit addresses")
    check_below("objects", len(objects) // 8, _MAX_PASSED)


def check_slab(node: NodeState, slab: SlabRef) -> None:
    """Check that a slab can be of the node that it is said to be of."""
    check_nid(node, "slab.node", slab.nid)
    check_below("slab.pfn", slab.pfn, MAX_NODE_PAGES)
    check_below("slab.lineage", slab.lineage, MAX_INT64)


def _hold(node: NodeState, session: Session, cache: str, alloc: CpuAlloc) -> KmemAllocResult:
    """A session has the objects that a CPU got."""
    objects: list[int] = []
    for of, addresses in alloc.got:
        session.objects.update(dict.fromkeys(addresses, Held(cache, of)))
        objects += addresses
    node.kmem.held += len(objects)
    return KmemAllocResult(pack(objects), tuple(alloc.back), *alloc[2:])


@dataclass(slots=True)
class KmemAlloc(Op[KmemAllocResult]):
    """Takes objects for a session from what a CPU and this node have (slab_alloc_node). NotFound, TooMany."""

    tag = "kmem_alloc"

    session: int
    #: The cache's own name.
    cache: str
    cpu: int
    #: The node that objects must be of, or NUMA_NO_NODE.
    nid: int
    count: int
    #: The partial slabs of the node that is asked first were sought in vain.
    searched: bool = False

    def apply(self, node: NodeState) -> KmemAllocResult:
        """Take objects until another node or new pages are needed; the session holds them."""
        session = node.session(self.session)
        kmem = node.kmem
        kmem.check_lives(self.cache)
        if kmem.held + self.count > MAX_OBJECTS:
            raise TooMany(f"sessions of node {node.nid} hold {kmem.held} slab objects, at most {MAX_OBJECTS}")
        return _hold(
            node,
            session,
            self.cache,
            kmem.cpu_alloc(self.cache, self.cpu, self.nid, self.count, self.searched),
        )

    def check(self, node: NodeState) -> None:
        """Check the cache, the CPU, the node and the count."""
        check_cache(node, self.cache)
        check_own_cpu(node, self.cpu)
        if self.nid != NUMA_NO_NODE:
            check_nid(node, "node", self.nid)
        check_below("count", self.count - 1, MAX_REQUEST_OBJECTS)

    def text(self, node: NodeState, result: KmemAllocResult) -> str:
        """Return the op and its result as one line."""
        got = len(result.objects) // 8
        needs = f" needs={result.need}" if result.need else ""
        return f"kmem_cache_alloc {self.cache} cpu={self.cpu} want={self.count} got={got}{needs}"


@dataclass(frozen=True, slots=True)
class KmemInstall(Op[KmemAllocResult]):
    """Gives a CPU what another node gave for it: objects, and with SLUB their slab and others.

    The session gets the last object, or all of them, of whichever node they are. Slabs of a lineage that is
    no more are passed over. NotFound, Precondition.
    """

    tag = "kmem_install"

    session: int
    cache: str
    cpu: int
    slab: SlabRef
    #: Packed addresses, the next to be allocated last.
    objects: bytes
    #: First pages of further slabs of the same node.
    partial: tuple[int, ...] = ()
    #: The session gets all objects.
    all_held: bool = False

    def apply(self, node: NodeState) -> KmemAllocResult:
        """Enter slab and objects."""
        if node.slots.is_dead(Owner(self.slab.nid, self.slab.lineage, 0)):
            return KmemAllocResult(b"", ())
        session = node.session(self.session)
        node.kmem.check_lives(self.cache)
        objects = unpack(self.objects)
        got = node.kmem.install(self.cache, self.cpu, self.slab, objects, self.partial, self.all_held)
        return _hold(node, session, self.cache, got)

    def check(self, node: NodeState) -> None:
        """Check the cache, the CPU, the slabs and the objects."""
        check_cache(node, self.cache)
        check_own_cpu(node, self.cpu)
        for pfn in (self.slab.pfn, *self.partial):
            check_slab(node, self.slab._replace(pfn=pfn))
        check_objects(self.objects)
        if not self.objects:
            raise InvalidRequest("objects", "a slab without free objects is of no use")

    def text(self, node: NodeState, result: KmemAllocResult) -> str:
        """Return the op as one line."""
        count = len(self.objects) // 8
        return f"slab {self.cache} cpu={self.cpu} from=node{self.slab.nid} objects={count}"

    @property
    def payload(self) -> int:
        """Bytes of the addresses."""
        return len(self.objects)


class KmemFreeResult(NamedTuple):
    """What is left to do of a KmemFree."""

    #: What goes to other nodes now.
    back: tuple[GiveBack, ...] = ()
    #: Packed addresses of the objects that the session still holds, to be freed after that.
    left: bytes = b""


@dataclass(slots=True)
class KmemFree(Op[KmemFreeResult]):
    """Takes objects from a session, up to the first that go to another node (kmem_cache_free_bulk).

    They go to the CPU if it has their slab, else to the slab. All are checked first: with SlabBug or
    UnknownObject none is freed.
    """

    tag = "kmem_free"

    session: int
    #: The cache's own name; "" for kfree, which takes objects of any.
    cache: str
    cpu: int
    #: Packed addresses.
    objects: bytes

    def apply(self, node: NodeState) -> KmemFreeResult:
        """Check all objects, then free them slab by slab."""
        held = node.session(self.session).objects
        of = self._held(node, held)
        back, freed, left = node.kmem.cpu_free(self.cpu, self.objects, of)
        for address in freed:
            del held[address]
        node.kmem.forget_written(freed)
        node.kmem.held -= len(freed)
        return KmemFreeResult(tuple(back), left)

    def _held(self, node: NodeState, held: dict[int, Held]) -> list[Held]:
        """What the session noted of each object. UnknownObject, SlabBug."""
        objects = unpack(self.objects)
        if len(objects) == 1 and (one := held.get(objects[0])) and self.cache in ("", one.cache):
            return [one]
        found = [of for of in map(held.get, objects) if of]
        if len(found) == len(objects) == len(set(objects)) and (
            not self.cache or set(map(itemgetter(0), found)) <= {self.cache}
        ):
            return found
        seen: set[int] = set()
        for address in objects:
            if address not in held:
                raise UnknownObject(address)
            if self.cache and held[address].cache != self.cache:
                raise SlabBug(node.kmem.wrong_cache(self.cache, held[address].cache))
            if address in seen:
                raise SlabBug(node.kmem.already_free(held[address].cache, address))
            seen.add(address)
        raise AssertionError("one of them is wrong")

    def check(self, node: NodeState) -> None:
        """Check the cache, the CPU and the number of objects; `apply` checks the objects."""
        if self.cache:
            check_cache(node, self.cache)
        check_own_cpu(node, self.cpu)
        check_objects(self.objects)

    def text(self, node: NodeState, result: KmemFreeResult) -> str:
        """Return the op as one line."""
        what = f"kmem_cache_free {self.cache}" if self.cache else "kfree"
        freed = (len(self.objects) - len(result.left)) // 8
        return f"{what} session={self.session} objects={freed} remote={len(result.back)}"

    @property
    def payload(self) -> int:
        """Bytes of the addresses."""
        return len(self.objects)


@dataclass(frozen=True, slots=True)
class KmemPutPartial(Op[tuple[GiveBack, ...]]):
    """Puts a slab of another node on a CPU's partial list; the result is what goes back (put_cpu_partial)."""

    tag = "kmem_put_partial"

    cache: str
    cpu: int
    slab: SlabRef

    def apply(self, node: NodeState) -> tuple[GiveBack, ...]:
        """Put it there, unless its node has lost it."""
        if not node.kmem.knows(self.cache) or node.slots.is_dead(Owner(self.slab.nid, self.slab.lineage, 0)):
            return ()
        return tuple(node.kmem.put_cpu_partial(self.cache, self.cpu, self.slab, drain=True))

    def check(self, node: NodeState) -> None:
        """Check the cache, the CPU and the slab."""
        check_cache(node, self.cache)
        check_own_cpu(node, self.cpu)
        check_slab(node, self.slab)

    def text(self, node: NodeState, result: tuple[GiveBack, ...]) -> str:
        """Return the op as one line."""
        return f"put_cpu_partial {self.cache} cpu={self.cpu} of=node{self.slab.nid}"


@dataclass(frozen=True, slots=True)
class KmemTune(Op[None]):
    """Sets the tunables of a cache of SLAB on this node (do_tune_cpucache)."""

    tag = "kmem_tune"

    #: The cache's own name.
    cache: str
    limit: int
    batchcount: int
    shared: int
    #: Version of the machine's record in which they were written; 0 if they are written on this node alone.
    version: int = 0

    def apply(self, node: NodeState) -> None:
        """Make the arrays anew; what they had goes back to its slabs."""
        node.kmem.tune(self.cache, self.limit, self.batchcount, self.shared)
        node.record_version = max(node.record_version, self.version)

    def check(self, node: NodeState) -> None:
        """Check the cache and the numbers, as slabinfo_write does."""
        check_cache(node, self.cache)
        if not tunables_are_sane(self.limit, self.batchcount, self.shared):
            raise InvalidRequest("limit", "1 ≤ batchcount ≤ limit, and 0 ≤ shared")
        check_below("version", self.version, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"tune {self.cache} {self.limit} {self.batchcount} {self.shared}"


@dataclass(frozen=True, slots=True)
class KmemCaches(Op[None]):
    """Tells a node which slab caches of the machine are not as boot left them (kmem_cache_create, …)."""

    tag = "kmem_caches"

    caches: tuple[ChangedCache, ...]
    #: Version of the machine's record that has them.
    version: int

    def apply(self, node: NodeState) -> None:
        """Make, forget and share caches; limits of partial lists count from the next time."""
        node.kmem.follow(SlabCaches(self.caches))
        node.record_version = max(node.record_version, self.version)

    def check(self, node: NodeState) -> None:
        """Check the version; the keeper of the record has checked the caches."""
        check_below("version", self.version, MAX_INT64)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        made = [cache.name for cache in self.caches if cache.args]
        return f"slab_caches changed={len(self.caches)} made={','.join(made)}"


@dataclass(frozen=True, slots=True)
class KmemShutdown(Op[Shutdown]):
    """Frees the empty slabs of a cache that is destroyed, and reports others (__kmem_cache_shutdown)."""

    tag = "kmem_shutdown"

    #: The cache's own name.
    cache: str

    def apply(self, node: NodeState) -> Shutdown:
        """Free them. Precondition if the cache is not being destroyed."""
        node.kmem.check_dies(self.cache)
        return node.kmem.shutdown(self.cache)

    def check(self, node: NodeState) -> None:
        """Check the cache."""
        check_cache(node, self.cache)

    def text(self, node: NodeState, result: Shutdown) -> str:
        """Return the op and its result as one line."""
        return f"kmem_cache_shutdown {self.cache} slabs={result.slabs}"


@dataclass(frozen=True, slots=True)
class KmemWrite(Op[None]):
    """Notes bytes that were written around an object which a session holds, or around or in a free one.

    NotFound; Precondition if another session has the object; InvalidRequest, TooMany.
    """

    tag = "kmem_write"
    asked = True

    #: The kernel of the asker's node.
    owner: Owner
    #: The session that holds the object, on this node; 0: it is a free object of a slab of this node.
    session: int
    #: Address of the object.
    object: int
    #: Bytes from there to the first that is written.
    offset: int
    data: bytes

    def apply(self, node: NodeState) -> None:
        """Note what a check would find."""
        if self.session:
            cache = node.session(self.session).objects[self.object].cache
        else:
            free = node.kmem.free_object(self.object)
            if free is None:
                raise Precondition(f"object {self.object:#x}: not the session's, and not free")
            cache = free
        node.kmem.write(cache, self.object, self.offset, self.data, self.session > 0)

    def check(self, node: NodeState) -> None:
        """Check the fields; another node asks about free objects only."""
        check_owner(node, self.owner)
        if self.session:
            raise InvalidRequest("session", "a node knows what its sessions hold")
        check_below("object", self.object, 1 << 64)
        check_below("offset", abs(self.offset), MAX_INT64)
        check_below("data", len(self.data) - 1, MAX_WRITE_BYTES)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"written object={self.object:#x} offset={self.offset} bytes={len(self.data)}"

    @property
    def payload(self) -> int:
        """Bytes that are written."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class KmemCheckHeld(Op[tuple[str, ...]]):
    """Checks objects of a session that are to be freed; what the kernel reports of the first that is bad.

    As there, what was found wrong is restored, so that the next free succeeds (free_consistency_checks).
    """

    tag = "kmem_check_held"

    session: int
    #: Packed addresses.
    objects: bytes

    def apply(self, node: NodeState) -> tuple[str, ...]:
        """Check one after the other."""
        held = node.session(self.session).objects
        for address in unpack(self.objects):
            of = held.get(address)
            report = of and node.kmem.check_held(of.cache, of.slab, address)
            if report:
                return report
        return ()

    def check(self, node: NodeState) -> None:
        """Check the number of objects."""
        check_objects(self.objects)

    def text(self, node: NodeState, result: tuple[str, ...]) -> str:
        """Return the op and its result as one line."""
        return f"check_object session={self.session} objects={len(self.objects) // 8} bad={bool(result)}"

    @property
    def payload(self) -> int:
        """Bytes of the addresses."""
        return len(self.objects)


@dataclass(frozen=True, slots=True)
class KmemValidate(Op[tuple[str, ...]]):
    """Checks the objects of a cache that this node knows of; the result is the report (validate_slab)."""

    tag = "kmem_validate"

    #: The cache's own name.
    cache: str

    def apply(self, node: NodeState) -> tuple[str, ...]:
        """Check them, and restore what is found wrong."""
        return node.kmem.validate(self.cache)

    def check(self, node: NodeState) -> None:
        """Check the cache."""
        check_cache(node, self.cache)

    def text(self, node: NodeState, result: tuple[str, ...]) -> str:
        """Return the op and its result as one line."""
        return f"validate {self.cache} lines={len(result)}"


@dataclass(frozen=True, slots=True)
class KmemReap(Op[tuple[GiveBack, ...]]):
    """Runs the reaper of each CPU of this node once; the result is what goes to other nodes (cache_reap)."""

    tag = "kmem_reap"

    #: The node's clock.
    now_ns: int

    def apply(self, node: NodeState) -> tuple[GiveBack, ...]:
        """Drain arrays that were not used of late."""
        return tuple(node.kmem.reap(self.now_ns))

    def check(self, node: NodeState) -> None:
        """Check the time."""
        check_below("now_ns", self.now_ns, MAX_INT64)

    def text(self, node: NodeState, result: tuple[GiveBack, ...]) -> str:
        """Return the op as one line."""
        return f"cache_reap remote={len(result)}"


@dataclass(frozen=True, slots=True)
class KmemFlush(Op[tuple[GiveBack, ...]]):
    """Takes a cache's slabs from this node's CPUs; the result is what goes to other nodes (flush_all)."""

    tag = "kmem_flush"

    cache: str

    def apply(self, node: NodeState) -> tuple[GiveBack, ...]:
        """Give back what each CPU has."""
        return tuple(node.kmem.flush(self.cache))

    def check(self, node: NodeState) -> None:
        """Check the cache."""
        check_cache(node, self.cache)

    def text(self, node: NodeState, result: tuple[GiveBack, ...]) -> str:
        """Return the op as one line."""
        return f"flush_all {self.cache}"


#: Calls that must not be lost, as the asker has let go of what they speak of.
_OWED = frozenset(("get_freelist", "free", "put_back", "unfreeze", "take_home"))


@dataclass(frozen=True, slots=True)
class KmemCall(Op[KmemAnswer]):
    """What the home of a CPU asks of the node that has a slab, by the name of what is to be done.

    A question about slabs of a lineage that is no more is answered as if they had gone. Precondition if the
    asker does not have what it speaks of.
    """

    tag = "kmem_call"
    asked = True

    #: The kernel of the asker's node (`NodeState.kernel`).
    owner: Owner
    call: str
    #: The cache's own name.
    cache: str
    #: The asker's CPU.
    cpu: int
    #: Lineage of this node in which the asker got the slabs.
    lineage: int
    #: First pages of slabs.
    pfns: tuple[int, ...] = ()
    #: Packed addresses.
    objects: bytes = b""
    #: At most so many objects are wanted.
    count: int = 0

    def apply(self, node: NodeState) -> KmemAnswer:
        """Do it, unless the slabs have gone with an earlier lineage."""
        if node.slots.is_dead(self.owner):
            raise Precondition(f"lineage {self.owner.lineage} of node {self.owner.nid} is no more")
        return node.kmem.answer(self._question())

    def _question(self) -> Question:
        addresses = unpack(self.objects)
        return Question(
            self.owner, self.call, self.cache, self.cpu, self.lineage, self.pfns, addresses, self.count
        )

    def check(self, node: NodeState) -> None:
        """Check the fields; `apply` checks what the asker has."""
        check_owner(node, self.owner)
        check_below("owner.id", self.owner.id, 1)
        check_cache(node, self.cache)
        check_below("lineage", self.lineage, MAX_INT64)
        check_below("count", self.count, _MAX_PASSED)
        if self.cpu not in node.pgdat.cpu_index:
            raise InvalidRequest("cpu", f"{self.cpu} is not a CPU of the machine")
        check_below("pfns", len(self.pfns), _MAX_PASSED)
        for pfn in self.pfns:
            check_below("pfns", pfn, MAX_NODE_PAGES)
        if len(set(self.pfns)) != len(self.pfns):
            raise InvalidRequest("pfns", "one is named twice")
        check_objects(self.objects)
        question = self._question()
        if len(set(question.objects)) != len(question.objects):
            raise InvalidRequest("objects", "one is named twice")
        node.kmem.check_call(question)

    def text(self, node: NodeState, result: KmemAnswer) -> str:
        """Return the op and its result as one line."""
        gave = (
            f" -> slabs={len(result.pfns)} objects={len(result.objects) // 8}" if self.call in GIVING else ""
        )
        what = f"slabs={len(self.pfns)} objects={len(self.objects) // 8}"
        return f"{self.call} {self.cache} of=node{self.owner.nid} {what}{gave}"

    def owed(self, heard: bool) -> bool:
        """Return whether the node may have given what the asker does not know of, or has to get something.

        A CPU that asks for the free objects of its slab has let go of the slab.
        """
        return self.call in _OWED or (heard and self.call in GIVING)

    def undo(self, result: KmemAnswer) -> Op[KmemAnswer] | None:
        """Return the op that gives back slabs and objects of an answer that came too late."""
        pfns = result.pfns
        if (self.call == "get_freelist" and result.objects) or (self.call == "free" and result.frozen):
            pfns = self.pfns[:1]
        if not pfns and not result.objects:
            return None
        call = "unfreeze" if self.call == "free" else "put_back"
        return KmemCall(self.owner, call, self.cache, self.cpu, result.lineage, pfns, result.objects)

    @property
    def payload(self) -> int:
        """Bytes of the addresses."""
        return len(self.objects)
