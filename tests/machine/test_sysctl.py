"""Sysctls: bounds, forms, typed access."""

from __future__ import annotations

import numpy as np
import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.presets import load_preset
from numa_service.machine.spec import SpecError
from numa_service.machine.sysctl import SYSCTLS, Sysctls, parse_sysctl, without_effect
from numa_service.mm.profile import PROFILES


@pytest.mark.parametrize(
    ("key", "value", "parsed"),
    [
        ("vm.min_free_kbytes", "65536", "65536"),
        ("vm/min_free_kbytes", " 0x10 ", "16"),
        ("vm.watermark_scale_factor", "3000", "3000"),
        ("vm.percpu_pagelist_high_fraction", "8", "8"),
        ("vm.lowmem_reserve_ratio", "128 64\t16", "128\t64\t16"),
        ("vm.lowmem_reserve_ratio", "256 -1 0", "256\t0\t0"),
        ("vm.numa_zonelist_order", "node", "Node"),
        ("vm.numa_zonelist_order", "Default", "Node"),
        ("kernel.numa_balancing", "0", "0"),
    ],
)
def test_writes_that_a_kernel_takes(key: str, value: str, parsed: str) -> None:
    assert parse_sysctl(key, value) == parsed


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("vm.nonsense", "1", "vm.nonsense: unknown sysctl"),
        ("vm/nonsense", "1", "vm.nonsense: unknown sysctl"),
        ("vm.min_free_kbytes", "-1", "vm.min_free_kbytes: -1 is not in 0 to 2147483647"),
        ("vm.min_free_kbytes", "2147483648", "vm.min_free_kbytes: 2147483648 is not in 0 to 2147483647"),
        ("vm.min_free_kbytes", "many", "vm.min_free_kbytes: 'many' is not an integer"),
        ("vm.min_free_kbytes", "", "vm.min_free_kbytes: '' is not an integer"),
        ("vm.min_free_kbytes", "1_0", "vm.min_free_kbytes: '1_0' is not an integer"),
        ("vm.watermark_scale_factor", "0", "vm.watermark_scale_factor: 0 is not in 1 to 3000"),
        ("vm.watermark_scale_factor", "3001", "vm.watermark_scale_factor: 3001 is not in 1 to 3000"),
        ("vm.swappiness", "201", "vm.swappiness: 201 is not in 0 to 200"),
        (
            "vm.percpu_pagelist_high_fraction",
            "7",
            "vm.percpu_pagelist_high_fraction: 7 is neither 0 nor at least 8",
        ),
        ("vm.lowmem_reserve_ratio", "", "vm.lowmem_reserve_ratio: 0 values, 1 to 5 expected"),
        ("vm.lowmem_reserve_ratio", "1 1 1 1 1 1", "vm.lowmem_reserve_ratio: 6 values, 1 to 5 expected"),
        ("vm.lowmem_reserve_ratio", "1 x", "vm.lowmem_reserve_ratio: 'x' is not an integer"),
        ("vm.numa_zonelist_order", "zone", "vm.numa_zonelist_order: linux-6.1 has node order only"),
        ("vm.numa_zonelist_order", "best", "vm.numa_zonelist_order: 'best' is not default, node or zone"),
    ],
)
def test_writes_that_a_kernel_refuses(key: str, value: str, error: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_sysctl(key, value)
    assert str(caught.value) == error


def test_linux_3_0_has_other_sysctls_and_bounds() -> None:
    with pytest.raises(SpecError, match=r"vm.watermark_scale_factor: linux-3.0 has no such sysctl"):
        parse_sysctl("vm.watermark_scale_factor", "10", "linux-3.0")
    with pytest.raises(SpecError, match=r"101 is not in 0 to 100"):
        parse_sysctl("vm.swappiness", "101", "linux-3.0")
    assert parse_sysctl("vm.numa_zonelist_order", "Zone", "linux-3.0") == "zone"
    sysctls = Sysctls("x86_64", "linux-3.0")
    assert sysctls.get("vm.lowmem_reserve_ratio") == "256\t256\t32"
    assert sysctls.lowmem_reserve_ratio == (256, 256, 32, 0, 0)
    assert sysctls.numa_zonelist_order == "default"
    assert (sysctls.watermark_scale_factor, sysctls.watermark_boost_factor) == (0, 0)
    assert sysctls.set("vm.lowmem_reserve_ratio", "0") == "1\t256\t32"
    assert Sysctls("i386", "linux-3.0").get("vm.lowmem_reserve_ratio") == "256\t32\t32"


def test_defaults_of_6_1() -> None:
    sysctls = Sysctls("x86_64", "linux-6.1")
    assert sysctls.min_free_kbytes is None
    assert sysctls.watermark_scale_factor == 10
    assert sysctls.watermark_boost_factor == 15000
    assert sysctls.lowmem_reserve_ratio == (256, 256, 32, 0, 0)
    assert sysctls.percpu_pagelist_high_fraction == 0
    assert sysctls.swappiness == 60
    assert sysctls.zone_reclaim_mode == 0
    assert sysctls.numa_zonelist_order == "node"
    assert Sysctls("i386", "linux-6.1").lowmem_reserve_ratio == (256, 32, 0, 0)


def test_set_writes_over_and_keeps_ratios_not_written() -> None:
    sysctls = Sysctls("x86_64", "linux-6.1", {"vm.min_free_kbytes": "1024", "vm.stat_refresh": ""})
    assert sysctls.min_free_kbytes == 1024
    assert sysctls.set("vm/min_free_kbytes", "2048") == "2048"
    assert sysctls.min_free_kbytes == 2048
    assert sysctls.set("vm.lowmem_reserve_ratio", "128 64") == "128\t64\t32\t0\t0"
    assert sysctls.as_dict()["vm.stat_refresh"] == ""
    before = sysctls.as_dict()
    with pytest.raises(SpecError):
        sysctls.set("vm.swappiness", "300")
    assert sysctls.as_dict() == before


def test_ratios_are_as_many_as_zone_types() -> None:
    with pytest.raises(SpecError, match="5 values, this machine has 4 zone types"):
        Sysctls("i386", "linux-6.1").set("vm.lowmem_reserve_ratio", "1 1 1 1 1")


@pytest.mark.parametrize("profile", list(PROFILES))
def test_every_default_is_a_value_that_could_be_written(profile: str) -> None:
    for name, sysctl in SYSCTLS.items():
        default = sysctl.default_in(profile)
        if default is not None:
            assert parse_sysctl(name, default, profile) == default


#: Values that a kernel acts on, whatever the machine.
VALUES = {
    "vm.lowmem_reserve_ratio": "16 16 16",
    "vm.min_free_kbytes": "99999",
    "vm.watermark_scale_factor": "1000",
}


#: The interval is read at each tick, the other one when a pool of huge pages needs a page.
READ_WHEN_NEEDED = (
    "vm.stat_interval",
    "vm.nr_overcommit_hugepages",
    "vm.numa_zonelist_order",
    "vm.panic_on_oom",
    "vm.oom_kill_allocating_task",
    "vm.oom_dump_tasks",
    "vm.memory_failure_early_kill",
)


def _state(profile: str, key: str, value: str | None) -> dict[str, bytes]:
    """The arrays, as bytes by name, of a booted machine of two nodes after a write of a sysctl."""
    machine = start_kernel(load_preset("two-socket").with_profile(profile))
    if value is not None:
        machine.write_sysctl(key, value)
    state = {f"lists {nid}": repr(lists).encode() for nid, lists in machine.zonelists.items()}
    for nid, pgdat in machine.pgdats.items():
        for name, column in pgdat.pg._asdict().items():
            if isinstance(column, np.ndarray):
                state[f"{nid}: {name}"] = column.tobytes()
    return state


@pytest.mark.parametrize("profile", list(PROFILES))
def test_a_sysctl_says_that_it_changes_nothing_if_it_changes_nothing(profile: str) -> None:
    before = _state(profile, "", None)
    for name, sysctl in SYSCTLS.items():
        if not sysctl.is_in(profile) or name in READ_WHEN_NEEDED:
            continue  # of the order see tests/machine/test_boot.py
        value = VALUES.get(name)
        if value is None:
            default = int(sysctl.default_in(profile) or 0)
            value = str(default + 8 if default + 8 <= sysctl.limit(profile) else sysctl.minimum)
            value = value if value != str(default) else str(default + 1)
        changed = _state(profile, name, value) != before
        assert changed == (without_effect(name, value, profile) == ""), name


def test_the_note_names_value_and_what_is_missing() -> None:
    note = "vm.zone_reclaim_mode = 7 is kept and shown, and changes nothing else here: "
    note += "node reclaim is not modelled"
    assert without_effect("vm/zone_reclaim_mode", " 7", "linux-6.1") == note
    assert without_effect("vm.zone_reclaim_mode", "0", "linux-6.1") == ""
    assert without_effect("vm.min_free_kbytes", "7", "linux-6.1") == ""
    assert without_effect("vm.nonsense", "7", "linux-6.1") == ""
    text = '[[node]]\ncpus = "0"\nmemory = "1GiB"\n[sysctl]\nvm.zone_reclaim_mode = 7\nvm.swappiness = 5\n'
    assert parse_machine(text, "m", "m").notes == (note,)
