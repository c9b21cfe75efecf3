"""What the documentation says, against what is there."""

from __future__ import annotations

import re
import subprocess
import xml.etree.ElementTree as ElementTree
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
from doc_blocks import PAGES, ROOT, blocks, code, page, rows
from doc_shell import DocShell, requires_namespaces
from groundtruth import ARCHIVES, unpacked
from numa_client import Access, Mix, ObjectMix, Phase, Program, ProgramLimits, ProgramRegion
from numa_client._program import DistributionKind
from skips import needs

from numa_service.cli.trace import KEPT_EVENTS
from numa_service.machine.formats.detect import IMPORTS
from numa_service.machine.formats.export import EXPORTS
from numa_service.machine.latency import LatencyModel
from numa_service.machine.machine_tables import LatencyTable, MachineTable, NodeTable
from numa_service.machine.presets import list_presets
from numa_service.machine.sysctl import SYSCTLS
from numa_service.node.trace_ring import RING_EVENTS
from numa_service.trace.tracepoint_formats import TRACEPOINTS
from numa_service.workload.plan import DEFAULT_LIMITS, MAX_LIMITS

NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

#: Pages whose blocks are run, and by which test.
RUN = {
    "README.md": "test_tour.py",
    "docs/client.md": "test_tour.py",
    "docs/metrics.md": "test_tour.py",
    "docs/console.md": "test_tour.py",
    "docs/workloads.md": "test_tour.py",
    "docs/tools.md": "test_tour.py",
    "docs/machine-file.md": "test_machine_file_runs",
    "docs/import-export.md": "test_import_export_runs",
    "docs/zoo.md": "test_zoo_runs",
    "docs/replay.md": "test_replay_runs",
    "docs/why.md": "test_why_runs",
    "docs/compare.md": "test_compare_runs",
    "lab/README.md": "test_exact_replay_runs",
    "docs/tracepoints.md": "test_tracepoints_run",
    "CONTRIBUTING.md": "test_contributing_runs",
}
RUNNABLE = ("sh", "console", "python")
#: Not run by us as they stand, but elsewhere: by CI, which runs this test, too, or their commands by a test.
MADE = {
    "setup": ".ci/run",
    "lint": ".ci/run",
    "test": ".ci/run",
    "demo": "tests/cluster/test_demo.py",
    "dist": "tests/dist/test_dist.py",
    "sim": "tests/sim/test_attack.py",
}


@pytest.mark.parametrize("name", NAMES)
def test_every_block_that_can_run_is_run(name: str) -> None:
    found = blocks(name)
    assert {block.language for block in found} <= {*RUNNABLE, "toml", "yaml", "text", "mermaid", ""}
    if name not in RUN:
        assert [str(block) for block in found if block.language in RUNNABLE] == []
    made = {
        line.split()[1]
        for block in found
        for line in block.text.splitlines()
        if block.language == "sh" and line.startswith("make ")
    }
    assert made <= set(MADE)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page(name))
    assert [link for link in links if "://" not in link and not (folder / link).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    where = (ROOT, ROOT / "numa_service", ROOT / "docs")
    named = [
        word for text in re.findall(r"`([^`\n]+)`", page(name)) for word in re.findall(r"^[\w./-]+$", text)
    ]
    files = [word for word in named if re.search(r"/[\w.-]+\.(py|md|txt|toml|yaml|yml|proto)$", word)]
    ours = [file for file in files if not file.startswith(("proc/", "/"))]
    assert [file for file in ours if not any((base / file).exists() for base in where)] == []


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    named = {
        target
        for name in NAMES
        for text in re.findall(r"`([^`\n]+)`", page(name))
        for target in re.findall(r"^make ([a-z-]+)", text)
    }
    assert {"help", *MADE} | named <= targets


def test_what_is_made_is_run_somewhere() -> None:
    for target, where in MADE.items():
        runs = (
            "make " + target
            if where == ".ci/run"
            else {"demo": '"demo"', "dist": '"hatchling", "build"', "sim": '"--seeds", "200"'}[target]
        )
        assert runs in page(where)
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_contributing_runs(tmp_path: Path) -> None:
    shell = DocShell(tmp_path)
    for name in ("tests", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    shell.play(blocks("CONTRIBUTING.md"))
    (printed,) = [text for text in shell.printed.values() if text]
    assert "kswapd1: ready" in printed


def test_readme_agrees_with_the_measured_fidelity() -> None:
    found = re.findall(
        r"^\| ([\w *-]+) \| \d+ \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", page("docs/fidelity.md"), re.M
    )
    measured = {what: list(map(int, numbers)) for what, *numbers in found}
    said = " ".join(page("README.md").split())
    numbers, exact, explained, different = measured["**all**"]
    assert f"of {numbers:,} distinct numbers" in said
    assert f" {exact:,} are exact, {explained:,} differ by no more than" in said
    assert f" and {different} are outside one" in said
    strict = measured["boots and changed sysctls"][0] + measured["memory hot-plug"][0]
    assert measured["boots and changed sysctls"][1] + measured["memory hot-plug"][1] == strict
    assert f"All {strict:,} of boots, changed sysctls and memory hot-plug are exact" in said
    loose = [a + b for a, b in zip(measured["steps of workloads"], measured["traces"], strict=True)]
    assert f"of {loose[0]:,} of workload steps and traces {loose[1]:,} are" in said


def test_the_picture_shows_the_demo() -> None:
    root = ElementTree.fromstring((ROOT / "docs" / "demo.svg").read_text())
    lines = ["".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]
    shown = " ".join(lines).replace("\N{NO-BREAK SPACE}", " ")
    source = (ROOT / "numa_service" / "cli" / "demo.py").read_text()
    acts = re.findall(r'^        \("([^"]+)", _\w+, \d\),$', source, flags=re.M)
    assert len(acts) == 5
    assert sum(act in shown for act in acts) >= 3
    for column in re.findall(r'"(\w[\w ]*)"', source.split("table = Table(", 1)[1].split("box=", 1)[0]):
        assert column in shown
    assert "running" in shown


# machine files


def test_every_key_of_a_machine_file_is_documented() -> None:
    documented = {
        heading: [key for row in rows("docs/machine-file.md", heading) for key in code(row[0])]
        for heading in ("## The machine", "## `[[node]]`", "## `[latency]`")
    }
    assert documented["## The machine"] == list(MachineTable.model_fields)
    assert documented["## `[[node]]`"] == list(NodeTable.model_fields)
    assert documented["## `[latency]`"] == list(LatencyTable.model_fields)


def test_the_defaults_that_are_documented_are_the_defaults() -> None:
    latency = {code(row[0])[0]: row[2] for row in rows("docs/machine-file.md", "## `[latency]`")}
    model = LatencyModel()
    by_node: dict[str, object] = {
        "memory_mb_per_s": model.memory_bandwidth(0),
        "link_mb_per_s": model.link_bandwidth(0, 1),
        "memory_curve": model.memory_curve_name(0),
        "link_curve": model.link_curve_name(0, 1),
    }
    for field in fields(LatencyModel):
        if field.name not in ("read_ns", "write_ns", "read_mb_per_s", "write_mb_per_s", "curves"):
            assert latency[field.name] == str(by_node.get(field.name, getattr(model, field.name)))
    machine = {code(row[0])[0]: row[2] for row in rows("docs/machine-file.md", "## The machine")}
    for key in ("arch", "profile"):
        assert code(machine[key]) == [MachineTable.model_fields[key].default]


def test_every_sysctl_is_documented() -> None:
    effective = [code(row[0])[0] for row in rows("docs/machine-file.md", "## `[sysctl]`")]
    kept = page("docs/machine-file.md").split("without effect on the model:", 1)[1].split("\n\n", 1)[0]
    assert sorted([*effective, *code(kept)]) == sorted(SYSCTLS)
    assert [name for name in SYSCTLS if not SYSCTLS[name].unmodelled] == [
        name for name in SYSCTLS if name in effective
    ]


def test_machine_file_runs(tmp_path: Path) -> None:
    shell = DocShell(tmp_path)
    shell.play(blocks("docs/machine-file.md"))
    (example,) = [block for block in blocks("docs/machine-file.md") if block.file == "every-key.toml"]
    keys = set(re.findall(r"^(\w+) =", example.text, flags=re.M))
    # `memory` and `ranges` exclude each other; the rest of the page's keys are all in the example
    wanted = {*MachineTable.model_fields, *NodeTable.model_fields, *LatencyTable.model_fields}
    assert wanted - keys == {"memory", "node", "sysctl", "latency"}


# other tools' formats


@needs("lstopo-no-graphics", "numactl", "dot")
def test_import_export_runs(tmp_path: Path) -> None:
    DocShell(tmp_path).play(blocks("docs/import-export.md"))


@needs("numactl")
@requires_namespaces
def test_zoo_runs(tmp_path: Path) -> None:
    """The page's loop, over three of the machines; the others differ by their files only."""
    shell = DocShell(tmp_path)
    *before, loop = [block for block in blocks("docs/zoo.md") if block.language in RUNNABLE]
    shell.play(before)
    script = loop.text.replace("--names)", "--names | grep -E 'gb200-hbm|no-node')")
    assert script != loop.text
    shell.bash(f"({script})", str(loop))
    # a command that fails on one machine is told, and so is the loop's status
    broken = script.replace("grep -q . /proc/meminfo", "test ! -e /sys/devices/system/node/node33")
    told = shell.bash(f"({broken}) || echo status $?", f"{loop}, broken")
    assert told.splitlines() == ["broken by zoo/gb200-hbm", "status 1"]


def test_the_zoo_is_documented() -> None:
    shapes = {preset.name.removeprefix("zoo/"): preset for preset in list_presets() if preset.broke}
    told = {code(row[0])[0]: row[1:] for row in rows("docs/zoo.md", "## The shapes")}
    assert told == {name: [p.description[:-1], p.broke[:-1]] for name, p in shapes.items()}


def test_every_format_is_documented() -> None:
    read = [code(row[0])[0] for row in rows("docs/import-export.md", "## What is read")]
    assert sorted(read) == sorted(IMPORTS)
    written = [code(row[0])[0] for row in rows("docs/import-export.md", "## What is written")]
    assert written == list(EXPORTS)


# programs


def test_every_key_of_a_program_is_documented() -> None:
    (example,) = [block for block in blocks("docs/workloads.md") if block.file == "every-key.toml"]
    for cls in (Program, ProgramLimits, ProgramRegion, Phase, Mix, Access, ObjectMix):
        missing = [f.name for f in fields(cls) if not re.search(rf"\b{f.name}\b", example.text)]
        assert missing == [], cls
    kinds = [code(row[0])[0] for row in rows("docs/workloads.md", "## Distributions")]
    assert kinds == list(get_args(DistributionKind))


def test_the_limits_of_programs_that_are_documented_are_the_limits() -> None:
    for row in rows("docs/workloads.md", "## Limits and ends"):
        (name,) = code(row[0])
        for text, limits in zip(row[1:], (DEFAULT_LIMITS, MAX_LIMITS), strict=True):
            base, _, power = text.partition("^")
            assert int(base) ** int(power or 1) == getattr(limits, name)


# replay


def test_replay_runs(tmp_path: Path) -> None:
    DocShell(tmp_path).play(blocks("docs/replay.md"))


def test_compare_runs(tmp_path: Path) -> None:
    DocShell(tmp_path).play(blocks("docs/compare.md"))
    assert "<svg" in (tmp_path / "lookups.html").read_text()


def test_why_runs(tmp_path: Path) -> None:
    DocShell(tmp_path).play(blocks("docs/why.md"))


def test_exact_replay_runs(tmp_path: Path) -> None:
    shell = DocShell(tmp_path)
    (tmp_path / "lab").symlink_to(ROOT / "lab")
    (tmp_path / "build").mkdir()
    packed = unpacked(ARCHIVES, ROOT / "build")
    (tmp_path / "build" / packed.name).symlink_to(packed)
    shell.play(blocks("lab/README.md"))


def test_tracepoints_run(tmp_path: Path) -> None:
    DocShell(tmp_path).play(blocks("docs/tracepoints.md"))


def test_every_tracepoint_is_documented() -> None:
    text = page("docs/tracepoints.md")
    told = set(re.findall(r"`((?:kmem|vmscan|migrate):\w+)`", text))
    told |= {
        f"{name.rpartition('_')[0]}{rest}" for name, rest in re.findall(r"`(\w+:mm_\w+)`, `(_\w+)`", text)
    }
    assert told == {f"{system}:{name}" for system, name, _ in TRACEPOINTS}
    assert f"{RING_EVENTS:,}" in text
    assert f"{KEPT_EVENTS:,}" in text


def test_how_to_record_is_legal_bash() -> None:
    """Not run: it needs root on the machine that is traced, and turns its tracing on."""
    recording = blocks("docs/replay.md")[0]
    assert "mm_page_alloc/enable" in recording.text
    done = subprocess.run(["bash", "-n"], input=recording.text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_names_presets_that_exist() -> None:
    known = {preset.name for preset in list_presets()}
    used = set(
        re.findall(r"numa-service (?:boot|up|presets) ([a-z][a-z-]*)(?=\s|$)", page("README.md"), flags=re.M)
    )
    used |= set(re.findall(r"--machine ([a-z-]+)", page("README.md")))
    assert used - {"box"} <= known
    assert used - {"box"}
