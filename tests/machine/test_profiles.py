"""Kernels are data: any version is a combination of rules, and boots with the text of the nearest one."""

from __future__ import annotations

import pytest

from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.draft import profile_of
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.sysctl import SYSCTLS
from numa_service.mm.profile import DEFAULT_PROFILE, PROFILES, profile_named, profile_of_version
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

#: A release on either side of most changes.
VERSIONS = (
    "2.6.32",
    "3.10",
    "3.18",
    "4.4",
    "4.9",
    "4.18",
    "5.4",
    "5.10",
    "5.15",
    "5.17",
    "6.6",
    "6.8",
    "6.18",
)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_kernel_of_any_version_boots_and_shows_every_file(version: str) -> None:
    spec = parse_machine(f'profile = "linux-{version}"\n{MACHINE}', source="small", default_name="small")
    snapshot = start_kernel(spec).snapshot()
    release = version if version.startswith("2.6") else f"{version}.0"
    assert snapshot.dmesg[0][1] == f"Linux version {release} (numa-service) small"
    for name in ("proc/zoneinfo", "proc/vmstat", "proc/meminfo", "proc/pagetypeinfo", "proc/buddyinfo"):
        assert tree.read(snapshot, name)


def test_what_a_kernel_prints_follows_its_rules() -> None:
    spec = parse_machine(MACHINE, source="small", default_name="small")
    old, new = (
        start_kernel(spec.with_profile(f"linux-{version}")).snapshot() for version in ("5.15", "5.16")
    )
    said = [{line for _, line in snapshot.dmesg} for snapshot in (old, new)]
    assert said[1] - said[0] == {
        "Linux version 5.16.0 (numa-service) small",
        "Fallback order for Node 0: 0 1 ",
        "Fallback order for Node 1: 1 0 ",
    }
    zoneinfo = [tree.read(snapshot, "proc/zoneinfo").splitlines() for snapshot in (old, new)]
    assert (
        [line for line in zoneinfo[1] if not line.startswith("        boost ")] == zoneinfo[0] != zoneinfo[1]
    )


def test_a_sysctl_is_there_from_its_release_on() -> None:
    spec = parse_machine(MACHINE, source="small", default_name="small")
    old, new = (
        start_kernel(spec.with_profile(f"linux-{version}")).snapshot() for version in ("4.14", "4.15")
    )
    assert tree.read(new, "proc/sys/vm/numa_stat") == "1\n"
    with pytest.raises(FileNotFoundError):
        tree.read(old, "proc/sys/vm/numa_stat")


def test_importers_name_the_kernel_of_a_version() -> None:
    versions = ("6.17.9", "6.18.0-rc1", "7.0", "5.10.0-8-amd64", "none")
    assert [profile_of(version) for version in versions] == [
        "linux-6.17",
        "linux-6.18",
        "linux-6.19",
        "linux-5.10",
        None,
    ]


def test_the_kernels_with_text_of_their_own_are_the_captured_ones() -> None:
    assert list(names.KERNELS) == list(PROFILES)
    assert {name: profile.name for name, profile in PROFILES.items()} == {name: name for name in PROFILES}
    assert DEFAULT_PROFILE in PROFILES
    for name, profile in PROFILES.items():
        assert names.printed_by(name) is names.KERNELS[name]
        assert profile_of_version(profile.release) is profile_of_version(profile.version) is profile
    nearest = {version: names.printed_by(f"linux-{version}") for version in ("2.6.32", "4.7", "4.8", "6.11")}
    assert list(nearest.values()) == [names.KERNELS[f"linux-{v}"] for v in ("3.0", "3.0", "6.1", "6.1")]


def test_what_kernels_lack_or_have_otherwise_is_there_elsewhere() -> None:
    """A misspelt name would be a difference without effect."""
    files = {pattern.path for pattern in tree.TABLE}
    for name in (*PROFILES, *(f"linux-{version}" for version in VERSIONS)):
        profile = profile_named(name)
        told = {*profile.absent_sysctls, *profile.sysctl_defaults, *profile.sysctl_maxima}
        assert told <= set(SYSCTLS), name
    assert all(kernel.absent_files <= files for kernel in names.KERNELS.values())
    lacking = [name for name in SYSCTLS if not any(SYSCTLS[name].is_in(profile) for profile in PROFILES)]
    assert lacking == []
