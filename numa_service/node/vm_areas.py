"""Areas of kernel addresses that sessions have, as the node that keeps the addresses sees them."""

from __future__ import annotations

from numa_service.mm.vmalloc.vm_struct import VmStruct
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.node.owners import Owner
from numa_service.node.state import NodeState


def end_areas(node: NodeState, owner: Owner) -> None:
    """End the areas of an owner, if this node keeps them; their pages are freed as the owner's pages are."""
    if node.vmalloc is not None:
        for area in areas_of(node.vmalloc):
            if area.owner == owner:
                node.vmalloc.unmap_pages(area)


def areas_of(vmalloc: Vmalloc) -> list[VmStruct]:
    """The areas of sessions, in the order of addresses."""
    return [area.vm for area in vmalloc.areas.busy if area.vm is not None and area.vm.owner is not None]
