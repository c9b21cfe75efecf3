"""Ops of kernel addresses, on the node that keeps them for the machine (``mm/vmalloc.c``)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numa_service.mm.vmalloc.rules import PAGE_SIZE
from numa_service.mm.vmalloc.vm_struct import VM_ALLOC, VM_ALLOW_HUGE_VMAP, VM_MAP, VM_USERMAP, VmStruct
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.vmalloc.vmap_area import VmallocError
from numa_service.node.errors import InvalidRequest, KernelBug, NotFound, Precondition, TooMany
from numa_service.node.ops.alloc import MAX_REQUEST_PAGES
from numa_service.node.ops.fields import check_below, check_bits, check_order, check_owner, owner_text
from numa_service.node.ops.op import Op
from numa_service.node.owners import Owner
from numa_service.node.pfns import check_pfns, pack_pfns, unpack_pfns
from numa_service.node.state import NodeState

#: Areas of all sessions together.
MAX_VM_AREAS = 1 << 14
#: A caller as /proc/vmallocinfo prints it, "load_module+0x1e3/0x2a0 [nfs]".
_CALLER = re.compile(r"[\w.]{1,64}(\+0x[0-9a-f]{1,8}/0x[0-9a-f]{1,8})?( \[\w{1,56}\])?", re.ASCII)
_FLAGS = VM_ALLOC | VM_MAP | VM_USERMAP | VM_ALLOW_HUGE_VMAP


def kernel_addresses(node: NodeState) -> Vmalloc:
    """The machine's kernel addresses; Precondition if another node keeps them."""
    if node.vmalloc is None:
        raise Precondition(f"node {node.machine.vmalloc_nid} keeps the kernel's addresses")
    return node.vmalloc


def check_caller(caller: str) -> None:
    """Check the name of the code that asks for an area."""
    if not _CALLER.fullmatch(caller):
        raise InvalidRequest("caller", f"{caller!r:.80} is not like load_module+0x1e3/0x2a0 [nfs]")


@dataclass(frozen=True, slots=True)
class TakeVmallocOwner(Op[int]):
    """Takes the id of the owner of what is vmalloc'ed for a session, at its first use; the result is the id.

    NotFound. The node that keeps the kernel's addresses counts from now on among those that have something
    of the session, which its end has to free.
    """

    tag = "take_vmalloc_owner"

    session: int

    def apply(self, node: NodeState) -> int:
        """Take the id, if the session has none."""
        session = node.session(self.session)
        if not session.vmalloc_id:
            session.vmalloc_id = node.take_id()
            if node.machine.vmalloc_nid != node.nid:
                session.holdings.add(node.machine.vmalloc_nid)
        return session.vmalloc_id

    def check(self, node: NodeState) -> None:
        """Accept every value: `apply` checks the session."""

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"vmalloc_owner session={self.session} -> {result}"


class GotVmArea(NamedTuple):
    """The address of a new area, or what the kernel prints when there is none; the address is 0 then."""

    addr: int
    report: str = ""


@dataclass(frozen=True, slots=True)
class GetVmArea(Op[GotVmArea]):
    """Takes addresses for an owner's area, without pages yet (__get_vm_area_node).

    TooMany; Precondition for an owner whose home has rebooted meanwhile.
    """

    tag = "get_vm_area"
    asked = True

    owner: Owner
    #: Bytes, without the guard page.
    size: int
    #: VM_* of the area.
    flags: int
    align: int
    caller: str
    #: A CPU of the owner's home.
    cpu: int

    def apply(self, node: NodeState) -> GotVmArea:
        """Take the lowest addresses that fit. If there are none, what waits has been purged all the same."""
        vmalloc = kernel_addresses(node)
        if node.slots.is_dead(self.owner):
            raise Precondition(f"lineage {self.owner.lineage} of node {self.owner.nid} is no more")
        if len(vmalloc.areas.busy) >= MAX_VM_AREAS:
            raise TooMany(f"there are {MAX_VM_AREAS} areas already")
        try:
            area = vmalloc.get_vm_area(self.size, self.flags, self.caller, align=self.align, cpu=self.cpu)
        except VmallocError as none:
            return GotVmArea(0, str(none))
        area.owner = self.owner.nid, self.owner.lineage, self.owner.id
        return GotVmArea(area.addr)

    def owed(self, heard: bool) -> bool:
        """Return whether the node may have taken addresses that the asker does not know of."""
        return heard

    def undo(self, result: GotVmArea) -> Op[Any] | None:
        """Return the op that ends an area of which the answer came too late."""
        return FreeVmArea(self.owner, result.addr, True) if result.addr else None

    def check(self, node: NodeState) -> None:
        """Check all fields."""
        check_owner(node, self.owner)
        check_below("size", self.size - 1, MAX_REQUEST_PAGES * PAGE_SIZE)
        check_bits("flags", self.flags, _FLAGS)
        if self.align < PAGE_SIZE or self.align & (self.align - 1) or self.align >= 1 << 32:
            raise InvalidRequest("align", f"{self.align} is no power of two from {PAGE_SIZE} on")
        check_caller(self.caller)
        check_below("cpu", self.cpu, len(node.machine.spec.cpus))

    def text(self, node: NodeState, result: GotVmArea) -> str:
        """Return the op and its result as one line."""
        got = f"{result.addr:#x}" if result.addr else "none"
        return f"get_vm_area {owner_text(self.owner)} size={self.size} -> {got}"


@dataclass(frozen=True, slots=True)
class MapVmArea(Op[None]):
    """Gives an owner's area its pages (__vmalloc_area_node). NotFound, Precondition if it has pages."""

    tag = "map_vm_area"
    asked = True

    owner: Owner
    addr: int
    order: int
    #: First pfns of the blocks, on any nodes, in the order of addresses.
    pfns: bytes
    #: Address of the area of the page pointers; 0: they are in none.
    array: int

    @property
    def payload(self) -> int:
        """Bytes of the pfns."""
        return len(self.pfns)

    def apply(self, node: NodeState) -> None:
        """Note the pages, which the owner has."""
        vmalloc = kernel_addresses(node)
        area = vmalloc.find_vm_area(self.addr)
        if area is None or area.addr != self.addr or area.owner != self.owner:
            raise NotFound("area", f"{self.addr:#x}")
        if area.nr_pages:
            raise Precondition(f"the area at {self.addr:#x} has pages")
        pfns = unpack_pfns(self.pfns)
        if len(pfns) << self.order > area.mapped_size // PAGE_SIZE:
            raise Precondition(f"the area has no room for {len(pfns)} blocks of order {self.order}")
        if len(pfns) and int(pfns.max()) >= node.machine.max_pfn:
            raise Precondition(f"page {int(pfns.max()):#x} is no page of the machine")
        area.pages_array = self.array or None
        vmalloc.map_pages(area, pfns.tolist(), self.order)

    def check(self, node: NodeState) -> None:
        """Check the owner, the order and the length of the pfns; `apply` checks the area and the pages."""
        check_owner(node, self.owner)
        check_order(self.order)
        check_pfns(self.pfns)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"map_vm_area {self.addr:#x} order={self.order} blocks={len(self.pfns) // 8}"


class VmAreaPages(NamedTuple):
    """What an area has: its first address, blocks of an order by their first pfns, an area of pointers."""

    addr: int
    order: int
    pfns: bytes
    array: int


@dataclass(frozen=True, slots=True)
class FindVmArea(Op[VmAreaPages]):
    """Finds the area of an owner that vfree or vunmap of an address would end; it changes nothing.

    KernelBug with the kernel's report for an address that no area has; Precondition for an area that is not
    the owner's. Of address 0, which is nothing to free, the result is an area at 0.
    """

    tag = "find_vm_area"
    asked = True

    owner: Owner
    addr: int
    #: The report is that of vunmap.
    unmaps: bool

    def apply(self, node: NodeState) -> VmAreaPages:
        """Find the area."""
        area = _area_to_free(node, self.owner, self.addr, self.unmaps)
        if area is None:
            return VmAreaPages(0, 0, b"", 0)
        pfns = pack_pfns(np.array(area.pages, np.uint64))
        return VmAreaPages(area.addr, area.page_order, pfns, area.pages_array or 0)

    def check(self, node: NodeState) -> None:
        """Check the owner; `apply` checks the address."""
        check_owner(node, self.owner)

    def text(self, node: NodeState, result: VmAreaPages) -> str:
        """Return "": the op changes nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class FreeVmArea(Op[None]):
    """Ends an owner's area (vfree, vunmap); its addresses wait for a purge. The caller frees the pages.

    Errors are as of :class:`FindVmArea`. With `unmaps` the pages stay allocated, as vunmap leaves them.
    """

    tag = "free_vm_area"
    asked = True

    owner: Owner
    addr: int
    unmaps: bool

    def apply(self, node: NodeState) -> None:
        """End the area."""
        area = _area_to_free(node, self.owner, self.addr, self.unmaps)
        if area is None:
            return
        if self.unmaps:
            kernel_addresses(node).vunmap(area.addr)
        else:
            kernel_addresses(node).unmap_pages(area)

    def owed(self, heard: bool) -> bool:
        """Return True: the asker frees the pages, and takes the area as ended."""
        return True

    def check(self, node: NodeState) -> None:
        """Check the owner; `apply` checks the address."""
        check_owner(node, self.owner)

    def text(self, node: NodeState, result: None) -> str:
        """Return the op as one line."""
        return f"{'vunmap' if self.unmaps else 'vfree'} {owner_text(self.owner)} {self.addr:#x}"


def _area_to_free(node: NodeState, owner: Owner, addr: int, unmaps: bool) -> VmStruct | None:
    vmalloc = kernel_addresses(node)
    try:
        area = vmalloc.area_to_free(addr, vmalloc.rules.vunmap_name if unmaps else "vfree")
    except VmallocError as report:
        raise KernelBug((str(report),)) from None
    if area is not None and area.owner != owner:
        whose = "another session" if area.owner else "the kernel"
        raise Precondition(f"the area at {area.addr:#x} belongs to {whose}")
    return area


@dataclass(frozen=True, slots=True)
class PurgeVmapAreas(Op[int]):
    """Makes free the addresses that wait (vm_unmap_aliases); the result is how many areas they were."""

    tag = "purge_vmap_areas"

    def apply(self, node: NodeState) -> int:
        """Purge what waits. Precondition if another node keeps the addresses."""
        return kernel_addresses(node).areas.purge_vmap_area_lazy()

    def check(self, node: NodeState) -> None:
        """Do nothing: there are no fields."""

    def text(self, node: NodeState, result: int) -> str:
        """Return the op and its result as one line."""
        return f"purge_vmap_areas -> {result}"
