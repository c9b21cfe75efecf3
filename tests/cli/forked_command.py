"""Processes of the command line that are forked from one that has imported it: each starts as a new one does,
without the third of a second that importing takes.

This file is also that process. It reads a line of JSON for each command, `[arguments, folder, stdout, stderr,
CPU seconds, bytes of address space]`, and answers with a line that has the exit status.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType


class ForkedCommand:
    """Runs `numa-service` in a process of its own each time; for one command after the other."""

    def __init__(self, module: str) -> None:
        """`module` of `numa_service.cli` is what is imported beforehand."""
        self._parent = subprocess.Popen(
            [sys.executable, __file__, module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> ForkedCommand:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End it, with a command that still runs."""
        os.killpg(self._parent.pid, signal.SIGKILL)
        self._parent.communicate()

    def run(
        self, arguments: list[str], folder: Path, cpu_seconds: int, address_space: int
    ) -> subprocess.CompletedProcess[str]:
        """Run a command with nothing on its standard input, in a folder, with limits."""
        assert self._parent.stdin
        assert self._parent.stdout
        with tempfile.TemporaryDirectory() as printed:
            stdout, stderr = Path(printed, "stdout"), Path(printed, "stderr")
            request = [arguments, str(folder), str(stdout), str(stderr), cpu_seconds, address_space]
            self._parent.stdin.write(json.dumps(request) + "\n")
            self._parent.stdin.flush()
            status = int(self._parent.stdout.readline())
            return subprocess.CompletedProcess(arguments, status, stdout.read_text(), stderr.read_text())


def _become(
    arguments: list[str], folder: str, stdout: str, stderr: str, cpu_seconds: int, address_space: int
) -> None:
    """Make of this process one that a shell has started."""
    for number, path in enumerate((os.devnull, stdout, stderr)):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    sys.argv = ["numa-service", *arguments]
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))


def _serve(module: str) -> None:
    """Fork for each request; returns in the processes that are to run a command."""
    from importlib import import_module

    for imported in (module, "main"):
        import_module(f"numa_service.cli.{imported}")
    # what a refusal imports besides
    for imported in ("cluster.errors", "machine.spec", "mm.memblock", "trace.events"):
        import_module(f"numa_service.{imported}")
    gc.freeze()  # a fork that ends walks, and so copies, nothing of its parent's
    for line in iter(sys.stdin.readline, ""):
        command = os.fork()
        if command == 0:
            return _become(*json.loads(line))
        _, status = os.waitpid(command, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    sys.exit()


if __name__ == "__main__":
    _serve(sys.argv[1])
    from numa_service.cli.main import main

    main()
