"""Watermarks and reserves after memory blocks went off-line or came back, compared exactly.

This uses the formulas of boot, with the managed pages that zones have after the last block, and not the
service's own memory hotplug (``online_pages`` and ``offline_pages`` end with ``init_per_zone_wmark_min``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fidelity.compare import Field, read_sysctls, zone_fields
from procfs.parse import machine_of_zoneinfo

from numa_service.machine.cmdline import thp_mode
from numa_service.machine.spec import MachineSpec
from numa_service.machine.sysctl import Sysctls
from numa_service.mm.mmzone import PAGE_SHIFT, ZONE_NAMES
from numa_service.mm.profile import Profile, profile_named
from numa_service.mm.snapshot import ZoneSnapshot
from numa_service.mm.watermark import (
    ZoneKey,
    calculate_min_free_kbytes,
    recommended_min_free_kbytes,
    setup_per_zone_lowmem_reserve,
    setup_per_zone_wmarks,
    stat_threshold,
    zone_batchsize,
    zone_highsize,
)

#: What was done to blocks (the type in blocks.json) before each snapshot.
_BEFORE = {
    "i1-node1-offlined": "offline-node1",
    "i2-online-movable": "online-movable",
    "i3-offline-again": "offline-again",
    "i4-online-kernel": "online-kernel",
    "i5-node0-offlined": "offline-node0",
}


def compare_hotplug(directory: Path, spec: MachineSpec) -> Iterator[Field]:
    """Compare every snapshot that was taken after a block changed its state."""
    name = f"{directory.parent.name}/{directory.name}"
    if not all((directory / file).is_file() for file in ("blocks.json", "i0-before/zoneinfo.txt")):
        return
    profile, huge = profile_named(spec.profile), thp_mode(spec.cmdline) != "never"
    sysctls = Sysctls(spec.arch, spec.profile, read_sysctls(directory / "sysctl.txt"))
    blocks: list[dict[str, Any]] = json.loads((directory / "blocks.json").read_text())
    zones = _zones(directory / "i0-before")
    managed = {key: zone.managed for key, zone in zones.items()}
    high = {key: zone.wmark_high for key, zone in zones.items()}
    changed = False
    for snapshot, kind in _BEFORE.items():
        if not (directory / snapshot / "zoneinfo.txt").is_file():
            continue
        for block in (b for b in blocks if b["type"] == kind and not b["rc"]):
            managed[_zone_of(block)] += _pages_per_block(directory) * (-1 if "offline" in kind else 1)
            kbytes = hotplug_min_free_kbytes(managed, high, profile, huge)
            sysctls.set("vm.min_free_kbytes", str(kbytes))
            marks = setup_per_zone_wmarks(managed, profile, kbytes, sysctls.watermark_scale_factor)
            high = {key: mark.high for key, mark in marks.items()}
            changed = True
        if changed:
            yield from _snapshot_fields(name, directory / snapshot, managed, sysctls, spec)


def hotplug_min_free_kbytes(
    managed: Mapping[ZoneKey, int], high: Mapping[ZoneKey, int], profile: Profile, thp: bool
) -> int:
    """init_per_zone_wmark_min() of a running machine, with the HIGH watermarks `high` in force."""
    above = {key: max(0, pages - high[key]) for key, pages in managed.items()}
    plain = calculate_min_free_kbytes(above, profile)
    return max(plain, recommended_min_free_kbytes(managed, profile, plain)) if thp else plain


def _zones(snapshot: Path) -> dict[ZoneKey, ZoneSnapshot]:
    captured = machine_of_zoneinfo((snapshot / "zoneinfo.txt").read_text())
    return {(z.nid, z.name): z for node in captured.nodes for z in node.zones}


def _zone_of(block: Mapping[str, Any]) -> ZoneKey:
    """Zone that the block left or came to; valid_zones was read before that."""
    zones = block["valid_zones"].split()
    if block["action"] == "online_kernel":  # the default comes first, which may be Movable
        zones = [name for name in zones if name != "Movable"]
    zone = "Movable" if block["action"] == "online_movable" else zones[0]
    return int(block["node"].removeprefix("node")), zone


def _pages_per_block(directory: Path) -> int:
    text = (directory / "i1-node1-offlined" / "memory_blocks.txt").read_text()
    sizes = dict(line.split(": ", 1) for line in text.splitlines())
    return int(sizes["block_size_bytes"], 16) >> PAGE_SHIFT


def _snapshot_fields(
    name: str, snapshot: Path, managed: Mapping[ZoneKey, int], sysctls: Sysctls, spec: MachineSpec
) -> Iterator[Field]:
    profile = profile_named(spec.profile)
    if (snapshot / "sysctl.txt").is_file():
        printed = int(read_sysctls(snapshot / "sysctl.txt")["vm.min_free_kbytes"])
        yield Field(name, snapshot.name, "min_free_kbytes", "machine", printed, sysctls.min_free_kbytes or 0)
    for zone in _zones(snapshot).values():
        if zone.populated:
            ours = _computed(zone, managed, profile, sysctls, spec)
            yield from zone_fields(
                name, snapshot.name, zone, ours, tuned=profile.has_promo, managed_computed=True
            )


def _computed(
    zone: ZoneSnapshot,
    managed: Mapping[ZoneKey, int],
    profile: Profile,
    sysctls: Sysctls,
    spec: MachineSpec,
) -> ZoneSnapshot:
    key = zone.nid, zone.name
    marks = setup_per_zone_wmarks(
        managed, profile, sysctls.min_free_kbytes or 0, sysctls.watermark_scale_factor
    )[key]
    own = [managed[zone.nid, name] for name in ZONE_NAMES[spec.arch]]
    reserve = setup_per_zone_lowmem_reserve(own, sysctls.lowmem_reserve_ratio, profile)
    online, local = len(spec.cpus), len(spec.node(zone.nid).cpus)
    pages = managed[key]
    batch = zone_batchsize(pages, profile)
    high = zone_highsize(
        pages, marks.low, batch, local, online, profile, sysctls.percpu_pagelist_high_fraction
    )
    return dataclasses.replace(
        zone,
        managed=pages,
        wmark_min=marks.min,
        wmark_low=marks.low,
        wmark_high=marks.high,
        wmark_promo=marks.promo,
        protection=tuple(reserve[zone.index]),
        pagesets=tuple(
            dataclasses.replace(pageset, high=high, batch=batch, stat_threshold=stat_threshold(pages, online))
            for pageset in zone.pagesets
        ),
    )
