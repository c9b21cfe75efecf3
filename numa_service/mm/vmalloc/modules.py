"""Areas of modules (load_module and module_alloc): one for each part, in their own range of addresses.

On x86-64 they lie near the kernel's text; on i386 they are areas of vmalloc like others. To free one purges
what waits: its pages get back the attributes they had (VM_FLUSH_RESET_PERMS).
"""

from __future__ import annotations

from collections.abc import Mapping

from numa_service.mm.vmalloc.pages import NUMA_NO_NODE, Interleave
from numa_service.mm.vmalloc.vm_struct import VM_FLUSH_RESET_PERMS, VmStruct
from numa_service.mm.vmalloc.vmalloc import Vmalloc
from numa_service.mm.vmalloc.vmap_area import VmallocError


def module_alloc(
    vmalloc: Vmalloc, size: int, caller: str, *, cpu: int = 0, policy: Interleave | None = None
) -> VmStruct:
    """An area for a part of a module, of `size` bytes (module_alloc)."""
    return vmalloc.vmalloc(
        size,
        caller,
        node=NUMA_NO_NODE,
        flags=VM_FLUSH_RESET_PERMS,
        start=vmalloc.layout.modules_vaddr,
        end=vmalloc.layout.modules_end,
        cpu=cpu,
        policy=policy,
    )


class Module:
    """A module's areas, by part: those that stay, and those of its init functions."""

    def __init__(self, vmalloc: Vmalloc, sizes: Mapping[str, int], caller: str, *, cpu: int = 0) -> None:
        """Load a module whose parts have these sizes, in bytes; a part of none has no area.

        ValueError for a part that this kernel does not know, VmallocError if an area is not to be had: then
        the module has none.
        """
        parts = vmalloc.rules.module_parts
        if unknown := sorted(set(sizes) - set(parts)):
            raise ValueError(f"a module has no part {', '.join(unknown)}: {', '.join(parts)}")
        self._vmalloc = vmalloc
        self.areas: dict[str, VmStruct] = {}
        for part in parts:
            if size := sizes.get(part, 0):
                try:
                    self.areas[part] = module_alloc(vmalloc, size, caller, cpu=cpu)
                except VmallocError:
                    self.unload()
                    raise
        vmalloc.vm_unmap_aliases()  # set_memory_x and others change attributes of pages

    def free_init(self) -> None:
        """The init functions have run: their areas are freed (do_free_init)."""
        self._free([part for part in self.areas if part.startswith("init")])

    def unload(self) -> None:
        """Free all areas (free_module)."""
        self._free(list(self.areas))

    def _free(self, parts: list[str]) -> None:
        for part in parts:
            self._vmalloc.vfree(self.areas.pop(part).addr)
