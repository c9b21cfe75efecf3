"""Modules of commands are imported on demand, and the table of modules and commands is right."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import numa_service.cli
from numa_service.cli.main import _COMMANDS, app


def test_every_module_with_commands_is_in_the_table() -> None:
    folder = Path(numa_service.cli.__file__).parent
    found = {path.stem: import_module(f"numa_service.cli.{path.stem}") for path in folder.glob("*.py")}
    registered = {}
    for name, module in found.items():
        if hasattr(module, "register"):
            of_module = typer.Typer()
            module.register(of_module)
            registered[name] = tuple(typer.main.get_group(of_module).commands)
    assert registered == _COMMANDS


def test_help_names_every_command_and_an_unknown_one_is_refused() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert all(f" {name} " in shown for commands in _COMMANDS.values() for name in commands)
    refused = CliRunner().invoke(app, ["hardwear", "demo"])
    assert refused.exit_code == 2
    assert "No such command 'hardwear'" in refused.output


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        (["presets", "--json"], {"ray", "textual", "aiohttp", "lxml"}),
        (["import", "pack:4 pu:2", "--json"], {"ray", "textual", "aiohttp", "numba"}),
        (["status"], {"ray", "textual", "aiohttp", "numba"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_imports_what_it_needs(
    command: list[str], unneeded: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMA_SERVICE_STATE_DIR", str(tmp_path))  # nothing is up
    code = (
        "import sys; from numa_service.cli.main import app;"
        f"app({command!r}, standalone_mode=False);"
        f"print(sorted({unneeded!r} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
