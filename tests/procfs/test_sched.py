"""Parameters of NUMA balancing, as captured in debugfs."""

from __future__ import annotations

import re

import pytest
from groundtruth import GROUNDTRUTH

from numa_service.machine.boot import start_kernel
from numa_service.machine.presets import load_preset
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs import tree

FOLDER = "/sys/kernel/debug/sched/numa_balancing"


def booted(profile: str) -> MachineSnapshot:
    return start_kernel(load_preset("two-socket").with_profile(profile)).snapshot()


@pytest.mark.parametrize(("profile", "name"), [("linux-6.1", "2n2c-k61"), ("linux-6.12", "2n2c-k612")])
def test_files_are_as_captured(profile: str, name: str) -> None:
    text = (GROUNDTRUTH / "balancing" / name / "threads/numa_balancing-params.txt").read_text()
    captured = dict(re.findall(r"^(?:/proc/sys/kernel/)?(\w+): (\S+)$", text, re.M))
    machine = booted(profile)
    files = [entry.name for entry in tree.listdir(machine, FOLDER)]
    found = {file: tree.read(machine, f"{FOLDER}/{file}").strip() for file in files}
    limit = "numa_balancing_promote_rate_limit_MBps"
    found[limit] = tree.read(machine, f"/proc/sys/kernel/{limit}").strip()
    assert captured.pop("numa_balancing") == "1", "it was written"
    assert found == captured


def test_kernels_without_it_have_neither() -> None:
    machine = booted("linux-3.0")
    with pytest.raises(OSError, match="No such file"):
        tree.listdir(machine, FOLDER)
    assert not [path for path, _, _ in tree.walk(machine, "/proc/sys") if "numa_balancing" in path]
