"""Programs whose calls a machine answers, started without a mount namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from numa_service.calls.machine import MachineOfCalls
from numa_service.calls.simulated import SimulatedMachine
from numa_service.calls.supervisor import Supervisor
from numa_service.cli.files import Booted, booted

#: Becomes a program under the filter: its output, its errors, the socket to the supervisor, then the command.
_BECOME = """
import os, sys
from numa_service.calls import seccomp
for number in (1, 2):
    os.dup2(int(sys.argv[number]), number)
seccomp.hand_over(seccomp.install(), int(sys.argv[3]))
os.execvp(sys.argv[4], sys.argv[4:])
"""

#: What programs of these tests begin with. `call` makes a system call; errnos are negative numbers.
PRELUDE = """
import ctypes, json, mmap, os, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

def call(number, *args):
    args = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    found = libc.syscall(ctypes.c_long(number), *args)
    return found if found >= 0 else -ctypes.get_errno()

MBIND, SET, GET, MIGRATE, MOVE = 237, 238, 239, 256, 279
SETAFFINITY, GETAFFINITY, GETCPU, SYSINFO = 203, 204, 309, 99
DEFAULT, PREFERRED, BIND, INTERLEAVE = range(4)

def mask(*nids):
    return ctypes.byref(ctypes.c_ulong(sum(1 << nid for nid in nids)))

def room(pages, touched=True):
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    # a page between two of them, so that the host's kernel keeps them apart
    at = libc.mmap(None, (pages + 1) << 12, 3, 0x22, -1, 0)
    libc.mprotect(ctypes.c_void_p(at + (pages << 12)), 4096, 0)
    if touched:
        ctypes.memset(at, 1, pages << 12)
    return at

def policy():
    mode, nodes = ctypes.c_int(), ctypes.c_ulong()
    assert call(GET, ctypes.byref(mode), ctypes.byref(nodes), 64, 0, 0) == 0
    return [mode.value, nodes.value]

def node_of(address):
    found = ctypes.c_int()
    done = call(GET, ctypes.byref(found), None, 0, address, 3)
    return found.value if done == 0 else done

def where(*addresses, to=None, pid=0):
    pages = (ctypes.c_void_p * len(addresses))(*addresses)
    status = (ctypes.c_int * len(addresses))(*[99] * len(addresses))
    nodes = (ctypes.c_int * len(addresses))(*to) if to else None
    done = call(MOVE, pid, len(addresses), pages, nodes, status, 2 if to else 0)
    return list(status) if done == 0 else done

def tell(**found):
    print(json.dumps(found), flush=True)
"""


@cache
def machine(preset: str = "two-socket") -> Booted:
    """One machine for all tests of a process; each program gives back what it took."""
    return booted(preset, None, False)


@dataclass
class Ran:
    """A program that has ended."""

    status: int
    #: What it told, a dict a line.
    told: list[dict[str, Any]] = field(default_factory=list)
    err: str = ""


def run(program: str, *arguments: str, preset: str = "two-socket", on: MachineOfCalls | None = None) -> Ran:
    """Run a Python program to its end, on the machine of a preset or on another one."""
    return run_command([sys.executable, "-c", PRELUDE + textwrap.dedent(program), *arguments], preset, on)


def run_command(command: list[str], preset: str = "two-socket", on: MachineOfCalls | None = None) -> Ran:
    """Run a command to its end; what it prints are lines of JSON, or text under "line"."""
    if on is None:
        at = machine(preset)
        on = SimulatedMachine(at.simulation, at.look)
    supervisor = Supervisor(on)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def start(answers: int) -> list[str]:
            ends = (str(end) for end in (out.fileno(), err.fileno(), answers))
            return [sys.executable, "-c", _BECOME, *ends, *command]

        status = supervisor.run(start, out.fileno(), err.fileno())
        out.seek(0)
        err.seek(0)
        told = [json.loads(line) if line.startswith("{") else {"line": line.rstrip()} for line in out]
        return Ran(status, told, err.read())


@cache
def is_allowed() -> bool:
    """Whether the host lets a process have its calls answered."""
    # SIGKILL, as its exit_group() would wait for an answer
    code = (
        "import os; from numa_service.calls import seccomp; "
        "seccomp.check_host(); seccomp.install(); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
    return done.returncode == -9
