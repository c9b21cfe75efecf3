"""Kernels are data: one more is a table here and a table of what its files say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.draft import profile_of
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.sysctl import SYSCTLS
from numa_service.mm.profile import DEFAULT_PROFILE, LINUX_6_12, PROFILES, profile_of_version
from numa_service.procfs import names, tree

MACHINE = """
name = "small"
[[node]]
cpus = "0-1"
memory = "128MiB"
[[node]]
cpus = "2"
memory = "64MiB"
"""


def test_one_more_kernel_is_two_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else finds it there: boot, boot log, sysctls, /proc, importers."""
    new = replace(
        LINUX_6_12,
        name="linux-6.18",
        release="6.18.3",
        since=(6, 18),
        has_promo=False,
        absent_sysctls=frozenset({"vm.numa_stat"}),
        sysctl_defaults={"vm.swappiness": "61"},
    )
    known = names.KERNELS[LINUX_6_12.name]
    monkeypatch.setitem(PROFILES, new.name, new)
    monkeypatch.setitem(names.KERNELS, new.name, replace(known, vm_event=(*known.vm_event, "made_up")))
    spec = parse_machine(MACHINE, source="small", default_name="small")
    before, after = (start_kernel(spec.with_profile(name)).snapshot() for name in ("linux-6.12", new.name))
    assert before.dmesg[0][1] == "Linux version 6.12.117 (numa-service) small"
    assert after.dmesg[0][1] == "Linux version 6.18.3 (numa-service) small"
    assert after.dmesg[1:] == before.dmesg[1:]

    zoneinfo = [tree.read(snapshot, "proc/zoneinfo") for snapshot in (before, after)]
    without_promo = [line for line in zoneinfo[0].splitlines() if not line.startswith("        promo ")]
    assert zoneinfo[1].splitlines() == without_promo != zoneinfo[0].splitlines()
    vmstat = [tree.read(snapshot, "proc/vmstat") for snapshot in (before, after)]
    assert vmstat[1] == f"{vmstat[0]}made_up 0\n"
    assert tree.read(after, "proc/sys/vm/swappiness") == "61\n"
    with pytest.raises(FileNotFoundError):
        tree.read(after, "proc/sys/vm/numa_stat")
    assert tree.read(before, "proc/sys/vm/numa_stat") == "1\n"
    assert [profile_of(version) for version in ("6.17.9", "6.18.0-rc1", "7.0")] == [
        "linux-6.12",
        "linux-6.18",
        "linux-6.18",
    ]


def test_every_kernel_has_both_tables() -> None:
    assert list(names.KERNELS) == list(PROFILES)
    assert {name: profile.name for name, profile in PROFILES.items()} == {name: name for name in PROFILES}
    assert DEFAULT_PROFILE in PROFILES
    # of whatever version, there is a profile that is like it
    assert min(profile.since for profile in PROFILES.values()) == (0, 0)
    for profile in PROFILES.values():
        major, minor = map(int, profile.version.split("."))
        assert profile_of_version((major, minor)) is profile


def test_what_kernels_lack_or_have_otherwise_is_there_elsewhere() -> None:
    """A name that nobody knows would be a difference that is none."""
    files = {pattern.path for pattern in tree.TABLE}
    for name, profile in PROFILES.items():
        told = {*profile.absent_sysctls, *profile.sysctl_defaults, *profile.sysctl_maxima}
        assert told <= set(SYSCTLS), name
        assert names.KERNELS[name].absent_files <= files, name
    lacking = [name for name in SYSCTLS if not any(SYSCTLS[name].is_in(profile) for profile in PROFILES)]
    assert lacking == []
