"""Runs the blocks of a page, in order, as a reader would who types them in one directory."""

from __future__ import annotations

import doctest
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from doc_blocks import ROOT, Block
from skips import NO_MOUNT_NAMESPACE

#: What a reader has in the directory of the project.
PROJECT = (".venv", "deploy", "docs", "proto")
#: Longest time of a block, in seconds, on a host that is busy with other things: a guard against what hangs.
TIMEOUT = 600.0

_OUTPUT = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


requires_namespaces = pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0
    and subprocess.run(["unshare", "-Um", "true"], capture_output=True).returncode != 0,
    reason=NO_MOUNT_NAMESPACE,
)


class DocShell:
    """A directory, and a Bash whose exports and functions last from block to block."""

    def __init__(self, folder: Path, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.env = {**os.environ, "COLUMNS": "120", **(env or {})}
        self._state = folder / ".state"
        self._state.touch()
        #: What each block has printed.
        self.printed: dict[str, str] = {}
        for name in PROJECT:
            (folder / name).symlink_to(ROOT / name)

    def play(self, blocks: list[Block]) -> None:
        """Run or save every block; AssertionError names the first that does not do what the page says."""
        for block in blocks:
            self.printed[str(block)] = self._play(block)

    def _play(self, block: Block) -> str:
        match block.language:
            case "sh":
                lines = [line for line in block.text.splitlines() if not line.startswith("make ")]
                return self.bash("\n".join(lines), str(block))
            case "console":
                return self._console(block)
            case "python":
                return self.python(block)
            case "yaml":
                assert isinstance(yaml.safe_load(block.text), dict), block
            case "toml" | "text":
                if block.file:
                    (self.folder / block.file).write_text(block.text)
        return ""

    def bash(self, script: str, name: str) -> str:
        """Standard output of a script; AssertionError when it fails."""
        keep = f"{{ declare -px; declare -f; }} > {shlex.quote(str(self._state))}"
        whole = f"source {shlex.quote(str(self._state))}\n{script}\n{keep}"
        return self._run(["bash", "-eu", "-c", whole], name)

    def python(self, block: Block) -> str:
        """Standard output of a snippet; AssertionError when it fails."""
        (self.folder / ".snippet.py").write_text(block.text)
        return self.bash(".venv/bin/python .snippet.py", str(block))

    def _console(self, block: Block) -> str:
        """Every ``$ command`` prints what stands below it; ``...`` stands for anything."""
        everything = ""
        for part in ("\n" + block.text).split("\n$ ")[1:]:
            command, _, wanted = part.partition("\n")
            got = self.bash(command, f"{block}: {command}")
            everything += got
            if wanted.strip():
                agrees = doctest.OutputChecker().check_output(
                    wanted.rstrip() + "\n", got.rstrip() + "\n", _OUTPUT
                )
                assert agrees, f"{block}: {command}\n--- page\n{wanted}\n--- printed\n{got}"
        return everything

    def _run(self, command: list[str], name: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=TIMEOUT
        )
        assert done.returncode == 0, f"{name}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout
