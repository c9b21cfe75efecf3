"""The sysctls of a machine: their names, their bounds and their defaults.

Values are strings as the kernel prints them. Bounds are those of the kernel's ``vm_table`` and handlers
(``kernel/sysctl.c``, ``mm/page_alloc.c``, ``mm/compaction.c``) in the profile's version.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from numa_service.machine.notation import one_line, shown
from numa_service.machine.spec import SpecError
from numa_service.machine.thp_files import ENABLED_KEY, THP_PREFIX, default_of, parse_thp
from numa_service.mm.mempolicy.interleave import MAX_WEIGHT
from numa_service.mm.mempolicy.policy import CallError, Mode
from numa_service.mm.mempolicy.text import parse_weight
from numa_service.mm.mmzone import ZONE_NAMES
from numa_service.mm.profile import DEFAULT_PROFILE, profile_named
from numa_service.mm.variants import ORDER_NODES

_INT_MAX = 2**31 - 1
_INTEGER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0|[1-9][0-9]*)", re.ASCII)
_ZONELIST_ORDERS = {"d": "default", "n": "node", "z": "zone"}


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One sysctl as most kernels have it; the Profile of a kernel has what differs there."""

    #: Dotted name.
    name: str
    summary: str
    #: None: computed at boot.
    default: str | None
    #: The part of the kernel that would act on it and is not modelled: the value is kept and shown, and has
    #: no effect. Empty: the sysctl has its effects.
    unmodelled: str = ""
    minimum: int = 0
    maximum: int = _INT_MAX

    def is_in(self, profile: str) -> bool:
        """Whether the profile's kernel has it."""
        return self.name not in profile_named(profile).absent_sysctls

    def default_in(self, profile: str) -> str | None:
        """Default in the profile's kernel; None if it is computed at boot, or the kernel lacks the sysctl."""
        kernel = profile_named(profile)
        return kernel.sysctl_defaults.get(self.name, self.default) if self.is_in(profile) else None

    def limit(self, profile: str) -> int:
        """Largest value that the profile's kernel accepts."""
        return profile_named(profile).sysctl_maxima.get(self.name, self.maximum)


def _kept(name: str, unmodelled: str, summary: str, default: str | None, maximum: int = _INT_MAX) -> Sysctl:
    return Sysctl(name, summary, default, unmodelled, maximum=maximum)


#: Every sysctl that can be written, by dotted name.
SYSCTLS: dict[str, Sysctl] = {
    sysctl.name: sysctl
    for sysctl in (
        Sysctl("vm.min_free_kbytes", "Free memory that min watermarks share out, kB.", None),
        Sysctl(
            "vm.watermark_scale_factor",
            "Distance between watermarks, in 1/10000 of a zone.",
            "10",
            minimum=1,
            maximum=3000,
        ),
        Sysctl(
            "vm.watermark_boost_factor",
            "Watermark boost after a mixing fallback, in 1/10000 of high; 0 is off.",
            "15000",
        ),
        Sysctl(
            "vm.lowmem_reserve_ratio",
            "Per zone: 1/ratio of the higher zones is kept from requests that could use those; 0 is none.",
            # The default depends on the architecture's zones: default_lowmem_reserve_ratio().
            None,
        ),
        Sysctl(
            "vm.percpu_pagelist_high_fraction",
            "Pagesets hold up to 1/fraction of a zone, over its CPUs; 0 is the default rule.",
            "0",
        ),
        Sysctl(
            "vm.swappiness",
            "Weight of reclaiming anonymous pages against file pages.",
            "60",
            maximum=200,
        ),
        _kept(
            "vm.zone_reclaim_mode",
            "node reclaim",
            "Reclaim locally before going to another node: 1 on, 2 write dirty pages, 4 unmap.",
            "0",
        ),
        Sysctl(
            "vm.numa_zonelist_order",
            "Order of zonelists: by node, or by zone in kernels that know it.",
            "Node",
        ),
        Sysctl("vm.nr_overcommit_hugepages", "Huge pages that pools may have beyond their size.", "0"),
        Sysctl("vm.stat_interval", "Seconds between vmstat ticks of a CPU; 0 is every jiffy.", "1"),
        _kept("kernel.numa_balancing", "NUMA balancing", "Automatic NUMA balancing.", None, 4),
        _kept(
            "kernel.numa_balancing_promote_rate_limit_MBps",
            "memory tiering",
            "MB/s that memory tiering promotes at most.",
            "65536",
        ),
        _kept("vm.numa_stat", "switching NUMA counters off", "Count NUMA events.", "1", 1),
        _kept(
            "vm.min_unmapped_ratio",
            "node reclaim",
            "Zone reclaim starts above this % of unmapped pages.",
            "1",
            100,
        ),
        _kept("vm.min_slab_ratio", "node reclaim", "Zone reclaim shrinks slab above this %.", "5", 100),
        _kept(
            "vm.extfrag_threshold",
            "compaction",
            "Compact when the fragmentation index is above.",
            "500",
            1000,
        ),
        _kept("vm.compaction_proactiveness", "compaction", "Background compaction, %.", "20", 100),
        _kept(
            "vm.compact_unevictable_allowed",
            "compaction",
            "Compact unevictable pages.",
            "1",
            1,
        ),
        _kept(
            "vm.dirty_ratio",
            "write-back of dirty pages",
            "Writers write back above this % of dirty pages.",
            "20",
            100,
        ),
        _kept(
            "vm.dirty_background_ratio",
            "write-back of dirty pages",
            "Flushers write back above this %.",
            "10",
            100,
        ),
        _kept("vm.overcommit_memory", "overcommit", "Overcommit policy.", "0", 2),
        _kept("vm.overcommit_ratio", "overcommit", "Share of RAM that may be committed, %.", "50"),
        _kept("vm.page-cluster", "swap read-ahead", "Swap read-ahead, log2 of pages.", "3", 31),
        Sysctl(
            "vm.panic_on_oom",
            "Kill nobody for want of memory: 1 of the machine, 2 also of nodes.",
            "0",
            maximum=2,
        ),
        Sysctl(
            "vm.oom_kill_allocating_task",
            "The task that asks for memory is killed, not the one with the most.",
            "0",
            minimum=-(2**31),
        ),
        Sysctl("vm.oom_dump_tasks", "Reports of OOM kills have the table of tasks.", "1", minimum=-(2**31)),
        Sysctl(
            "vm.memory_failure_early_kill",
            "Tasks are killed when memory of theirs is found bad, not when they access it.",
            "0",
            maximum=1,
        ),
        _kept(
            "vm.vfs_cache_pressure",
            "a cache of dentries and inodes",
            "Weight of reclaiming dentries and inodes.",
            "100",
        ),
    )
}


#: Files of /sys/kernel/mm that are kept like sysctls: the weights of weighted interleave, by node.
_WEIGHT = re.compile(r"mempolicy\.weighted_interleave\.node(0|[1-9][0-9]{0,3})", re.ASCII)


def weight_name(nid: int) -> str:
    """The name under which the weight of a node is kept."""
    return f"mempolicy.weighted_interleave.node{nid}"


def check_weight(key: str, nids: Container[int]) -> None:
    """SpecError for the weight of a node that the machine does not have."""
    found = _WEIGHT.fullmatch(sysctl_name(key))
    if found and int(found[1]) not in nids:
        raise SpecError(f"{found[0]}: there is no node {found[1]}")


def sysctl_name(key: str) -> str:
    """Dotted name of a key written ``vm.x`` or ``vm/x``."""
    return key.strip().replace("/", ".")


def without_effect(key: str, value: str, profile: str) -> str:
    """A line for users if writing this value has no effect, because what acts on it is not modelled; else "".

    It is also "" for the kernel's default value, which is what the model does anyway.
    """
    name = sysctl_name(key)
    sysctl = SYSCTLS.get(name)
    unmodelled, default = "", None
    if sysctl is not None:
        unmodelled, default = sysctl.unmodelled, sysctl.default_in(profile)
    elif name.startswith(THP_PREFIX) and name != ENABLED_KEY:
        unmodelled, default = "a process with transparent huge pages", default_of(name, profile)
    if not unmodelled or value.strip() == (default or "0"):
        return ""
    return (
        f"{name} = {' '.join(value.split())} is kept and shown, and changes nothing else here: "
        f"{unmodelled} is not modelled"
    )


def default_lowmem_reserve_ratio(arch: str, profile: str) -> str:
    """``sysctl_lowmem_reserve_ratio`` as compiled into the kernel: one entry a zone type.

    Older kernels (``lowmem_reserve_per_zone`` is false) have no entry for the highest zone type.
    """
    kernel = profile_named(profile)
    ratios = {"DMA": 256, "DMA32": 256, "Normal": 32}
    zones = [name for name in ZONE_NAMES[arch] if name != "Device" or kernel.zone_device]
    if kernel.lowmem_reserve_per_zone:
        return "\t".join(str(ratios.get(name, 0)) for name in zones)
    return "\t".join(str(ratios.get(name, 32)) for name in zones[:-1])


def parse_sysctl(key: str, value: str, profile: str = DEFAULT_PROFILE) -> str:
    """The value of a sysctl as the kernel would print it after this write.

    SpecError (``vm.x: reason``) for a sysctl that is unknown or not in that profile's kernel, and for a value
    that the kernel refuses. For vm.lowmem_reserve_ratio, fewer values than zones are legal.
    """
    name = sysctl_name(key)
    if _WEIGHT.fullmatch(name):
        return _interleave_weight(name, value, profile)
    if name.startswith(THP_PREFIX):
        return parse_thp(name, value, profile)
    sysctl = SYSCTLS.get(name)
    if sysctl is None:
        raise SpecError(f"{one_line(name, 80)}: unknown sysctl")
    if not sysctl.is_in(profile):
        raise SpecError(f"{name}: {profile} has no such sysctl")
    if name == "vm.numa_zonelist_order":
        return _zonelist_order(value, profile)
    if name == "vm.lowmem_reserve_ratio":
        return _reserve_ratios(name, value, profile)
    number = _integer(name, value.strip())
    if not sysctl.minimum <= number <= sysctl.limit(profile):
        raise SpecError(f"{name}: {number} is not in {sysctl.minimum} to {sysctl.limit(profile)}")
    # MIN_PERCPU_PAGELIST_HIGH_FRACTION
    if name == "vm.percpu_pagelist_high_fraction" and 0 < number < 8:
        raise SpecError(f"{name}: {number} is neither 0 nor at least 8")
    return str(number)


def _integer(name: str, text: str) -> int:
    if not _INTEGER.fullmatch(text) or len(text) > 20:
        raise SpecError(f"{name}: {shown(text)} is not an integer")
    return int(text, 0)


def _zonelist_order(value: str, profile: str) -> str:
    # The kernel looks at the first letter only (__parse_numa_zonelist_order).
    order = _ZONELIST_ORDERS.get(value.strip()[:1].lower())
    if order is None:
        raise SpecError(f"vm.numa_zonelist_order: {shown(value.strip())} is not default, node or zone")
    if profile_named(profile).zone_order != ORDER_NODES:
        return order
    if order == "zone":
        raise SpecError(f"vm.numa_zonelist_order: {profile} has node order only")
    return "Node"


def _interleave_weight(name: str, value: str, profile: str) -> str:
    if Mode.WEIGHTED_INTERLEAVE.name not in profile_named(profile).mempolicies:
        raise SpecError(f"{name}: {profile} has no weighted interleave")
    try:
        return str(parse_weight(value))
    except CallError:
        raise SpecError(f"{name}: {shown(value.strip())} is not in 0 to {MAX_WEIGHT}") from None


def _reserve_ratios(name: str, value: str, profile: str) -> str:
    ratios = [_integer(name, word) for word in value.split()]
    most = max(len(default_lowmem_reserve_ratio(arch, profile).split()) for arch in ZONE_NAMES)
    if not 1 <= len(ratios) <= most:
        raise SpecError(f"{name}: {len(ratios)} values, 1 to {most} expected")
    if max(ratios) > _INT_MAX:
        raise SpecError(f"{name}: {max(ratios)} is above {_INT_MAX}")
    # lowmem_reserve_ratio_sysctl_handler: a ratio below 1 means no reserve, or is corrected to 1
    least = 0 if profile_named(profile).lowmem_reserve_per_zone else 1
    return "\t".join(str(max(ratio, least)) for ratio in ratios)


class Sysctls:
    """The sysctls of one machine: the values that were set, and the defaults of its profile for the others.

    The properties are typed values. A sysctl that the profile's kernel does not have reads as 0, which turns
    off what it tunes.
    """

    def __init__(self, arch: str, profile: str, values: Mapping[str, str] | None = None) -> None:
        try:
            profile_named(profile)
        except ValueError as error:
            raise SpecError(str(error)) from None
        self.arch = arch
        self.profile = profile
        self._values: dict[str, str] = {
            name: default for name, sysctl in SYSCTLS.items() if (default := sysctl.default_in(profile))
        }
        self._values["vm.lowmem_reserve_ratio"] = default_lowmem_reserve_ratio(arch, profile)
        for key, value in (values or {}).items():
            if key in SYSCTLS and SYSCTLS[key].is_in(profile):
                self.set(key, value)
            else:
                self._values[key] = value

    def set(self, key: str, value: str) -> str:
        """Write a sysctl and return the value kept. SpecError as of parse_sysctl; nothing changes then."""
        name = sysctl_name(key)
        parsed = parse_sysctl(name, value, self.profile)
        if name == "vm.lowmem_reserve_ratio":
            # proc_dointvec: entries that are not written stay.
            written, current = parsed.split("\t"), self._values[name].split("\t")
            if len(written) > len(current):
                raise SpecError(f"{name}: {len(written)} values, this machine has {len(current)} zone types")
            parsed = "\t".join(written + current[len(written) :])
        self._values[name] = parsed
        return parsed

    def get(self, key: str) -> str | None:
        """Value as the kernel prints it; None if it is unknown, or not set and without a default."""
        return self._values.get(sysctl_name(key))

    def as_dict(self) -> dict[str, str]:
        """Every value that is set or has a default, by name, sorted."""
        return dict(sorted(self._values.items()))

    @property
    def min_free_kbytes(self) -> int | None:
        """vm.min_free_kbytes in kB; None: computed by ``init_per_zone_wmark_min``."""
        value = self._values.get("vm.min_free_kbytes")
        return None if value is None else int(value)

    @property
    def watermark_scale_factor(self) -> int:
        """vm.watermark_scale_factor, in 1/10000 of a zone."""
        return self._int("vm.watermark_scale_factor")

    @property
    def watermark_boost_factor(self) -> int:
        """vm.watermark_boost_factor, in 1/10000 of the high watermark; 0 is off."""
        return self._int("vm.watermark_boost_factor")

    @property
    def lowmem_reserve_ratio(self) -> tuple[int, ...]:
        """One ratio for each of the architecture's zone types; 0 is no reserve."""
        ratios = tuple(int(word) for word in self._values["vm.lowmem_reserve_ratio"].split())
        return ratios + (0,) * (len(ZONE_NAMES[self.arch]) - len(ratios))

    @property
    def percpu_pagelist_high_fraction(self) -> int:
        """vm.percpu_pagelist_high_fraction: 0, or at least 8."""
        return self._int("vm.percpu_pagelist_high_fraction")

    @property
    def swappiness(self) -> int:
        """vm.swappiness: 0 to 200, or to a lower maximum in the profile."""
        return self._int("vm.swappiness")

    @property
    def stat_interval(self) -> int:
        """vm.stat_interval: seconds between vmstat ticks; 0 is every jiffy."""
        return self._int("vm.stat_interval")

    @property
    def zone_reclaim_mode(self) -> int:
        """vm.zone_reclaim_mode: the bits RECLAIM_ZONE 1, RECLAIM_WRITE 2, RECLAIM_UNMAP 4."""
        return self._int("vm.zone_reclaim_mode")

    @property
    def interleave_weights(self) -> dict[int, int]:
        """Weights of weighted interleave that were written, by nid; 0 is the default."""
        return {int(found[1]): int(self._values[name]) for name, found in self._weights()}

    def _weights(self) -> Iterator[tuple[str, re.Match[str]]]:
        return ((name, found) for name in self._values if (found := _WEIGHT.fullmatch(name)))

    @property
    def numa_zonelist_order(self) -> str:
        """vm.numa_zonelist_order: ``default``, ``node`` or ``zone``."""
        return self._values["vm.numa_zonelist_order"].lower()

    def _int(self, name: str) -> int:
        return int(self._values.get(name, "0"))
