"""Pages that a captured kernel freed after it had computed its watermarks, and where they lie.

``init_per_zone_wmark_min`` (a postcore initcall) and khugepaged (a subsys initcall) compute from the pages
that zones manage at that time. Memory that is freed later is in `managed` of every zoneinfo, and not in the
watermarks of that boot: to compute those, it has to be known. It is the initrd, freed by a rootfs initcall,
and the init sections and the gaps of the kernel image, freed right before init runs. The locks that
alternatives keep for UP (``.smp_locks``) are freed before the initcalls and do not count. The boot log says
how many pages were freed; the log and ``/proc/iomem`` say where.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from numa_service.machine.zones import PfnRange
from numa_service.mm.mmzone import PAGE_SHIFT, PAGE_SIZE

_FREEING = re.compile(r"Freeing (.{1,64}?) memory: (\d{1,12})K", re.ASCII)
_RAMDISK = re.compile(r"(?:Allocated new )?RAMDISK: \[mem 0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})\]", re.ASCII)
_IMAGE = re.compile(r" +([0-9a-f]{1,16})-([0-9a-f]{1,16}) : Kernel (code|rodata|data|bss)", re.ASCII)
_EARLY = "SMP alternatives"
#: Pages of .data_nosave, which lies between .smp_locks and .bss.
_NOSAVE_PAGES = 1


@dataclass(frozen=True, slots=True)
class LateFree:
    """One line "Freeing … memory" of the boot log, printed after the initcalls that compute watermarks."""

    #: The name in the log: "initrd", "unused kernel image (initmem)".
    what: str
    pfns: PfnRange

    @property
    def pages(self) -> int:
        """Number of pages freed."""
        return self.pfns[1] - self.pfns[0]


def late_frees(dmesg: str, iomem: Iterable[str]) -> tuple[LateFree, ...]:
    """The pages freed late whose place is known from boot log and iomem.

    If the iomem shows no addresses, because it was not read as root, that is the initrd only.
    """
    image = {
        match[3]: (int(match[1], 16), int(match[2], 16) + 1) for match in map(_IMAGE.match, iomem) if match
    }
    # early boot moves the initrd if it lies too high (i386): the last address printed counts
    ramdisk = [(int(start, 16), int(last, 16) + 1) for start, last in _RAMDISK.findall(dmesg)]
    sizes = {what: int(kib) * 1024 // PAGE_SIZE for what, kib in _FREEING.findall(dmesg)}
    before_bss = sizes.get(_EARLY, 0) + _NOSAVE_PAGES
    frees = []
    for what, pages in sizes.items():
        if what == "initrd" and ramdisk:
            start = ramdisk[-1][0] >> PAGE_SHIFT
        elif what != _EARLY and _is_real(image):
            end = _image_end(what, image, before_bss)
            if end is None:
                continue
            start = end - pages
        else:
            continue
        frees.append(LateFree(what, (start, start + pages)))
    return tuple(frees)


def _is_real(image: Mapping[str, PfnRange]) -> bool:
    """Whether the iomem has addresses: a reader who is not root sees 0 for all of them."""
    return {"code", "data", "bss"} <= set(image) and image["code"][1] > 1


def _image_end(what: str, image: Mapping[str, PfnRange], before_bss: int) -> int | None:
    """End pfn of a freed part of the kernel image, whose sections lie in the order of ``vmlinux.lds``.

    None if the part is not known.
    """
    bss_start, bss_end = image["bss"]
    match what:
        case "unused kernel image (text/rodata gap)" if "rodata" in image:
            return image["rodata"][0] >> PAGE_SHIFT
        case "unused kernel image (rodata/data gap)":
            return image["data"][0] >> PAGE_SHIFT
        case "unused kernel image (initmem)":
            return (bss_start >> PAGE_SHIFT) - before_bss
        case "unused decrypted":  # .bss..decrypted closes .bss
            return -(-bss_end // PAGE_SIZE)
        case _:
            return None
