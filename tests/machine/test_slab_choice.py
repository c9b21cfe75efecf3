"""The slab allocator of a machine: which a kernel has, what a machine file may choose, what is seen of it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from numa_service.cli.main import app
from numa_service.machine.boot import start_kernel
from numa_service.machine.formats.draft import draft_of
from numa_service.machine.formats.machine_toml import to_toml
from numa_service.machine.machinefile import parse_machine
from numa_service.machine.spec import MachineSpec, SpecError
from numa_service.mm.profile import profile_named
from numa_service.procfs.tree import read

ONE_NODE = '[[node]]\ncpus = "0-1"\nmemory = "512MiB"\n'


def machine(head: str) -> MachineSpec:
    return parse_machine(f"{head}\n{ONE_NODE}", source="m.toml", default_name="m")


@pytest.mark.parametrize(
    ("kernel", "allocators"),
    [
        ("linux-2.6.32", ("slub", "slab", "slob")),
        ("linux-3.0", ("slub", "slab", "slob")),
        ("linux-6.2", ("slub", "slab", "slob")),
        ("linux-6.4", ("slub", "slab")),
        ("linux-6.7", ("slub", "slab")),
        ("linux-6.8", ("slub",)),
        ("linux-6.12", ("slub",)),
    ],
)
def test_a_kernel_has_the_allocators_of_its_time(kernel: str, allocators: tuple[str, ...]) -> None:
    assert profile_named(kernel).slab_allocators == allocators
    for slab in ("slub", "slab", "slob"):
        head = f'profile = "{kernel}"\nslab = "{slab}"'
        if slab in allocators:
            assert machine(head).slab == slab
            continue
        with pytest.raises(SpecError, match=rf"m.toml:2: slab: {kernel} has slub.*, no {slab}"):
            machine(head)


def test_without_the_key_it_is_the_kernels_default() -> None:
    assert machine("").slab == "slub"


def test_an_unknown_allocator_is_refused() -> None:
    with pytest.raises(SpecError, match=r"m.toml:1: slab: .*slub, slab, slob"):
        machine('slab = "slqb"')


def test_an_exported_machine_keeps_it() -> None:
    text = to_toml(draft_of(machine('slab = "slob"')))
    assert parse_machine(text, source="again", default_name="again").slab == "slob"
    assert "slab =" not in to_toml(draft_of(machine("")))


def test_another_kernel_without_it_does_not_boot() -> None:
    with pytest.raises(SpecError, match=r"slab: linux-6\.12 has slub, no slob"):
        start_kernel(machine('slab = "slob"').with_profile("linux-6.12"), [])


def test_slabinfo_is_of_the_allocator() -> None:
    """SLAB has tunables, and SLOB has no such file."""
    lines = read(start_kernel(machine('slab = "slab"'), []).snapshot(), "/proc/slabinfo").splitlines()
    by_name = {line.split()[0]: line.split()[1:] for line in lines}
    tunables = by_name["dentry"][by_name["dentry"].index("tunables") :][:4]
    assert tunables == ["tunables", "120", "60", "8"]
    assert by_name["shmem_inode_cache"][2:5] == ["712", "11", "2"]
    slob = start_kernel(machine('slab = "slob"'), []).snapshot()
    assert "names_cache" in {cache.name for cache in slob.slab_caches}
    assert not any(cache.name.startswith("kmalloc") for cache in slob.slab_caches)
    for path in ("/proc/slabinfo", "/sys/kernel/slab/names_cache/order"):
        with pytest.raises(FileNotFoundError):
            read(slob, path)


def test_boot_takes_an_allocator_in_place_of_the_machines() -> None:
    run = CliRunner()
    shown = run.invoke(app, ["boot", "demo", "--slab", "slab", "--json"])
    assert json.loads(shown.output)["slab"] == "slab"
    refused = run.invoke(app, ["boot", "demo", "--slab", "slqb"])
    assert refused.exit_code
    assert "slab: linux-6.1 has slub, slab, slob, no slqb" in str(refused.output) + str(refused.exception)
