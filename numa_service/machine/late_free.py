"""Pages that a captured kernel freed after it had computed its watermarks, and where they lie.

``init_per_zone_wmark_min`` (a postcore initcall) and khugepaged (a subsys initcall) compute from the pages
that zones manage at that time. Memory that is freed later is in `managed` of every zoneinfo, and not in the
watermarks of that boot: to compute those, it has to be known. It is the initrd, freed by a rootfs initcall,
and the init sections and the gaps of the kernel image, freed right before init runs. The locks that
alternatives keep for UP (``.smp_locks``) are freed before the initcalls and do not count. The boot log says
how many pages were freed; the log and ``/proc/iomem`` say where. Without a boot log, the reserves that the
kernel printed tell what zones managed when they were computed (:func:`managed_at_boot`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
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


def managed_at_boot(
    managed: Sequence[int], reserves: Mapping[int, Sequence[int]], ratios: Sequence[int]
) -> list[int]:
    """Pages that the zones of a node managed when its reserves were computed, by zone index.

    `managed` is what they manage now, `reserves` the printed lowmem_reserve of zones: of zone z for class k
    that is the pages of all zones above z, up to k, divided by `ratios[z]` (setup_per_zone_lowmem_reserve).
    Most is taken that makes the printed numbers, so that a zone is smaller by less than a ratio at most. What
    is not told, or contradicts itself, is taken to have been as it is now.
    """
    then, least = list(managed), list(managed)
    limits: list[tuple[int, int, int]] = []
    for zone, row in reserves.items():
        ratio = ratios[zone] if zone < len(ratios) else 0
        above = [k for k in range(zone + 1, min(len(managed), len(row))) if managed[k]]
        if ratio < 1 or not above or not row[above[0]]:
            continue  # nothing is told
        limits += [(zone, k, (row[k] + 1) * ratio - 1) for k in above[1:]]
        first = above[0]
        low, high = row[first] * ratio, (row[first] + 1) * ratio - 1
        # half of it freed late is another ratio, which somebody has set
        if low <= managed[first] < 2 * low:
            then[first] = min(then[first], high)
            least[first] = min(least[first], low)
    for zone, k, high in limits:
        excess = sum(then[zone + 1 : k + 1]) - high
        for upper in range(k, zone, -1):
            less = max(0, min(excess, then[upper] - least[upper]))
            then[upper] -= less
            excess -= less
    return then
