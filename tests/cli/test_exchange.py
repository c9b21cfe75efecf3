"""numa-service import and export: files, notes, errors; and every SOURCE takes what import takes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from skips import NO_ZONEINFO
from typer.testing import CliRunner

from numa_service.cli import boot, exchange
from numa_service.machine.formats.detect import IMPORTS
from numa_service.machine.formats.export import EXPORTS
from numa_service.machine.spec import SpecError

ROOT = Path(__file__).resolve().parents[2]
SYNTHETIC = "pack:2 [numa(memory=2GiB)] core:2 pu:2"

app = typer.Typer(pretty_exceptions_enable=False)
for module in (boot, exchange):
    module.register(app)
run = CliRunner().invoke


def _told(arguments: list[str]) -> str:
    """The line that main() prints for an error."""
    error = run(app, arguments).exception
    assert isinstance(error, SpecError)
    assert "\n" not in str(error)
    return str(error)


def test_every_format_has_its_choice() -> None:
    assert tuple(exchange.ImportFormat) == IMPORTS
    assert tuple(exchange.ExportFormat) == EXPORTS


def test_import_writes_a_machine_file_that_boots(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    done = run(app, ["import", SYNTHETIC, "--name", "mine", "-o", str(path)])
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "note: a synthetic description has no distances" in done.stderr
    text = path.read_text()
    assert "# note: a synthetic description has no distances" in text
    assert 'name = "mine"' in text
    shown = run(app, ["boot", str(path), "--show", "numactl"])
    assert "node 1 cpus: 4 5 6 7" in shown.stdout
    assert path.stat().st_mode & 0o777 == 0o666 & ~exchange._umask()


def test_nothing_is_overwritten_unless_asked_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("mine")
    assert "it exists: give another name, or --force" in _told(["import", SYNTHETIC, "-o", str(path)])
    assert path.read_text() == "mine"
    assert "is not a level" in _told(
        ["import", "pack:2 pu:", "--format", "synthetic", "-o", str(path), "--force"]
    )
    assert path.read_text() == "mine"
    assert run(app, ["import", SYNTHETIC, "-o", str(path), "--force"]).exit_code == 0
    assert path.read_text() != "mine"
    assert os.listdir(tmp_path) == ["mine.toml"]
    assert "No such file or directory" in _told(["import", SYNTHETIC, "-o", str(tmp_path / "no" / "x.toml")])
    assert "it is a directory" in _told(["import", SYNTHETIC, "-o", str(tmp_path), "--force"])


def test_export_says_what_is_lost_on_stderr_and_in_json() -> None:
    done = run(app, ["export", "cxl-tier", "--to", "qemu"])
    assert done.exit_code == 0
    assert done.stdout.startswith("-machine q35")
    assert "note: HMAT has no latency curves: left out" in done.stderr
    told = json.loads(run(app, ["export", "cxl-tier", "--to", "qemu", "--json"]).stdout)
    assert told["text"] == done.stdout
    assert "HMAT has no latency curves: left out" in told["notes"]


def test_stdin_is_a_source_of_import() -> None:
    text = "available: 1 nodes (0)\nnode 0 cpus: 0 1\nnode 0 size: 2048 MB\n"
    done = run(app, ["import", "-"], input=text)
    assert 'managed = "2GiB"' in done.stdout


@pytest.mark.parametrize("form", ["hwloc-xml", "qemu", "toml"])
def test_boot_takes_what_export_writes(form: str, tmp_path: Path) -> None:
    path = tmp_path / "machine"
    assert run(app, ["export", "two-socket", "--to", form, "-o", str(path)]).exit_code == 0
    first, second = (
        run(app, ["boot", source, "--show", "zonelists"]) for source in ("two-socket", str(path))
    )
    assert first.stdout == second.stdout != ""


def test_boot_takes_a_synthetic_description_and_tells_its_notes() -> None:
    done = run(app, ["boot", SYNTHETIC, "--show", "numactl"])
    assert "available: 2 nodes (0-1)" in done.stdout
    assert "note: a synthetic description has no distances" in done.stderr


def test_a_format_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("zonk")
    assert "XML" in _told(["import", str(path), "--format", "hwloc-xml"])
    assert "sysfs is a directory, this is a file" in _told(["import", str(path), "--format", "sysfs"])
    assert "a directory is capture, sysfs, acpi, not qemu" in _told(
        ["import", str(tmp_path), "--format", "qemu"]
    )
    assert run(app, ["import", str(path), "--format", "zip"]).exit_code == 2


@pytest.mark.skipif(not Path("/proc/zoneinfo").exists(), reason=NO_ZONEINFO)
def test_a_host_is_gathered_and_imported(tmp_path: Path) -> None:
    shell = shutil.which("dash") or "sh"
    script = ROOT / "deploy" / "gather-numa.sh"
    target = tmp_path / "here"
    command = [shell, str(script), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "is done" in done.stderr
    imported = run(app, ["import", str(target)])
    assert imported.exit_code == 0
    assert 'name = "here"' in imported.stdout
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 1
    assert "exists: give a directory that does not" in again.stderr
    without = subprocess.run([shell, str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert "usage: sh gather-numa.sh DIR" in without.stderr
