"""The sections on slab allocators and vmalloc of ``make fidelity``, of captures that are not whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from fidelity.compare import Field
from fidelity.rows import row
from fidelity.slab import guest_of
from fidelity.slab_table import slab_section, work_section
from fidelity.vmalloc_table import vmalloc_section
from groundtruth import GROUNDTRUTH

BOOT = "slab/1n1c-k61slab/default"


def test_a_capture_elsewhere_is_compared_by_what_is_in_it(tmp_path: Path) -> None:
    shutil.copytree(GROUNDTRUTH / BOOT, tmp_path / BOOT)
    skipped: list[str] = []
    unreadable: list[str] = []
    text, fields = slab_section(tmp_path, skipped, unreadable)
    assert "| SLAB, linux-6.1 | 1 |" in text
    assert fields
    assert all(field.equal for field in fields)
    assert work_section(tmp_path, skipped, unreadable) == ("", [])
    assert vmalloc_section(tmp_path, skipped, unreadable) == ("", [])
    assert (skipped, unreadable) == ([], [])


def test_what_is_missing_or_wrong_is_said(tmp_path: Path) -> None:
    for name in ("slab/1n1c-k61/default", BOOT, "vmalloc/i386-1g/default"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        shutil.copy(GROUNDTRUTH / name / "scenario.json", folder)
    (tmp_path / "slab/1n2c-k61/default").mkdir(parents=True)
    (tmp_path / "slab/1n2c-k61/default/scenario.json").write_text("{}")
    skipped: list[str] = []
    unreadable: list[str] = []
    for section in (slab_section, work_section, vmalloc_section):
        assert section(tmp_path, skipped, unreadable) == ("", [])
    assert skipped == [
        "slab/1n1c-k61/default: there is no slab-attributes.txt",
        f"{BOOT}: there is no guest.sh",
        "vmalloc/i386-1g/default: there is no vmallocinfo.txt",
    ]
    assert unreadable == ["slab/1n2c-k61/default: KeyError: 'kernel_cmdline'"]


def test_a_number_outside_its_tolerance_is_different() -> None:
    fields = [Field("boot", "replay", "slabs", str(off), 100, 100 + off, slack=7) for off in (0, 7, 8)]
    assert row("SLUB", fields) == "| SLUB | 3 | 3 | 1 | 1 | 1 |\n"


def test_nodes_of_a_capture_may_differ(tmp_path: Path) -> None:
    scenario = {
        "kernel_version": "6.1.192",
        "kernel_cmdline": "",
        "nodes": [{"mem": 384, "cpus": 1}, {"mem": 768, "cpus": 3}, {"mem": 256}],
        "dist": [[10, 30, 20], [30, 10, 20], [20, 20, 10]],
    }
    (tmp_path / "scenario.json").write_text(json.dumps(scenario))
    guest = guest_of(tmp_path)
    assert guest.cpus == (0, 1, 1, 1)
    assert [guest.page_to_nid(mib << 8) for mib in (0, 383, 384, 1151, 1152, 2000)] == [0, 0, 1, 1, 2, 2]
    assert guest.fallback == {0: (0, 2, 1), 1: (1, 2, 0), 2: (2, 0, 1)}
    log = "[    0.0] x\n[    0.1]   node   0: [mem 0x0000000000100000-0x00000000181fffff]\n"
    (tmp_path / "dmesg-end.txt").write_text(log)
    assert guest_of(tmp_path).ends[0] == 0x18200
