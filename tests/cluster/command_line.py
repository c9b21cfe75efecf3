"""Runs the command line as a user does."""

from __future__ import annotations

import subprocess
import sys

COMMAND = [sys.executable, "-c", "from numa_service.cli.main import main; main()"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=600)


def ok(*arguments: str) -> str:
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(*arguments: str) -> str:
    """Run a command that must fail; returns the one line that it prints."""
    result = run(*arguments)
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("numa-service: ") == 1
    return result.stderr.splitlines()[-1].removeprefix("numa-service: ")
