"""The public suites: where their sources are, how they are built, and what their tests say when they end."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

LTP = "https://github.com/linux-test-project/ltp"
#: The last release that has its tests in the package.
PSUTIL = "psutil==5.9.8"
#: Seconds that a test may take.
LIMIT: Final = 300
_SYSCALLS = "testcases/kernel/syscalls"
#: LTP tests end with a status of bits: 32 for a test that does not apply here.
_TCONF: Final = 32


class Outcome(Enum):
    """What a test said."""

    PASS = "pass"
    MISS = "miss"
    #: The test says itself that it does not apply to this system.
    NOT_HERE = "does not apply"


@dataclass(frozen=True)
class Test:
    """A test of a suite: a command, to be run in the folder where the suite was built."""

    name: str
    command: Sequence[str]
    #: What its status and its output mean.
    judge: Callable[[int, str], Outcome]
    seconds: int = LIMIT


@dataclass(frozen=True)
class Suite:
    """Tests that are built together."""

    name: str
    folder: Path
    tests: Sequence[Test]
    environment: dict[str, str]


def by_status(status: int, text: str) -> Outcome:
    """0 is success; 77 and 32 are what automake's and LTP's tests say where they do not apply."""
    if status == 0:
        return Outcome.PASS
    return Outcome.NOT_HERE if status in (77, _TCONF) else Outcome.MISS


def _randmap(status: int, text: str) -> Outcome:
    """It runs until SIGALRM (a shell says 142), and prints each policy that is not as it was set."""
    wrong = "got policy" in text or ": nodes" in text
    return Outcome.PASS if status == 142 and "off:" in text and not wrong else Outcome.MISS


def _without_complaint(word: str) -> Callable[[int, str], Outcome]:
    """Tests that print what is wrong, and end with 0 all the same."""
    return lambda status, text: Outcome.PASS if status == 0 and word not in text else Outcome.MISS


def numactl(scratch: Path) -> list[Suite]:
    """numactl of Debian, built as its own `make check` builds it."""
    folder = _sources("numactl", scratch, _numactl_of_debian)
    _once(folder, ["./autogen.sh"], ["./configure", "--disable-shared", f"--prefix={scratch}/numactl"])
    _once(folder, ["make", "-j2"], ["make", "-j2", "check", "TESTS="], ["make", "install"], mark="built")
    listed = "bind_range checkaffinity checktopology distance move_pages nodemap numademo regress tbitmap"
    check = [
        Test(name, [f"test/{name}"], by_status, 3600 if name in ("numademo", "regress") else LIMIT)
        for name in listed.split()
    ]
    besides = "mbind_mig_pages migrate_pages mynode pagesize realloc_test"
    beside = [Test(name, [f"test/{name}"], by_status) for name in besides.split()]
    beside += [
        Test("prefered", ["test/prefered"], by_status),
        Test("tshared", ["test/tshared"], _without_complaint("expected")),
    ]
    environment = {"builddir": ".", "srcdir": "."}
    return [
        Suite("numactl: make check", folder, check, environment),
        Suite("numactl: tests outside it", folder, beside, environment),
        Suite(
            "libnuma: randmap",
            folder,
            [Test("randmap", ["stdbuf", "-oL", "test/randmap", "20", "1"], _randmap)],
            environment,
        ),
    ]


def _numactl_of_debian(scratch: Path) -> Path:
    """`apt-get source`, with lists of its own: nothing of the host is changed."""
    lists = scratch / "apt"
    (lists / "partial").mkdir(parents=True, exist_ok=True)
    (scratch / "sources.list").write_text(
        "deb-src http://deb.debian.org/debian stable main\n", encoding="ascii"
    )
    options = [
        f"-oDir::Etc::sourcelist={scratch}/sources.list",
        "-oDir::Etc::sourceparts=-",
        f"-oDir::State::lists={lists}",
        "-oDebug::NoLocking=1",
    ]
    _run(scratch, ["apt-get", *options, "update"])
    _run(scratch, ["apt-get", *options, "source", "numactl"])
    return next(path for path in sorted(scratch.glob("numactl-*")) if path.is_dir())


def ltp(scratch: Path) -> list[Suite]:
    """The Linux Test Project's runtest/numa, and its tests of mbind and get_mempolicy."""
    folder = _sources("ltp", scratch, _ltp_of_github)
    at = scratch / "numactl"
    options = [f"CPPFLAGS=-I{at}/include", f"LDFLAGS=-L{at}/lib"]
    _once(folder, ["make", "autotools"], ["./configure", *options])
    calls = ("mbind", "get_mempolicy", "set_mempolicy", "move_pages", "migrate_pages")
    parts = ["lib", "libs/numa", *(f"{_SYSCALLS}/{call}" for call in calls), "testcases/kernel/numa"]
    _once(folder, *(["make", "-C", part, "-j2"] for part in [*parts, "testcases/lib"]), mark="built")
    runtest = (folder / "runtest/numa").read_text(encoding="ascii").splitlines()
    named = [line.split()[1] for line in runtest if line and not line.startswith("#")]
    single = {
        call: sorted(path.stem for path in (folder / _SYSCALLS / call).glob(f"{call}0*.c")) for call in calls
    }
    path = [folder / "testcases/lib", folder / "testcases/kernel/numa", at / "bin"]
    environment = {
        "LTPROOT": str(folder),
        "PATH": ":".join([*map(str, path), os.environ["PATH"]]),
        "LTP_COLORIZE_OUTPUT": "n",
        "TMPDIR": str(scratch),
    }

    def test(name: str) -> Test:
        if name.endswith(".sh"):
            return Test(name, [f"testcases/kernel/numa/{name}"], _ltp_shell)
        return Test(name, [f"{_SYSCALLS}/{name[:-2]}/{name}"], by_status)

    return [
        Suite("LTP: runtest/numa", folder, [test(name) for name in named], environment),
        Suite("LTP: mbind", folder, [test(name) for name in single["mbind"]], environment),
        Suite("LTP: get_mempolicy", folder, [test(name) for name in single["get_mempolicy"]], environment),
    ]


def _ltp_shell(status: int, text: str) -> Outcome:
    """A shell test that has parts which do not apply ends with their bit."""
    return Outcome.PASS if status in (0, _TCONF) and "TFAIL" not in text and "TPASS" in text else Outcome.MISS


def _ltp_of_github(scratch: Path) -> Path:
    _run(scratch, ["git", "clone", "--quiet", "--depth", "1", LTP, "ltp"])
    return scratch / "ltp"


def psutil(scratch: Path) -> list[Suite]:
    """psutil's own tests of CPUs, affinity, and memory, beside what free and lscpu print."""
    folder = scratch / "psutil"
    if not (folder / "psutil/tests").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(scratch, [*pip, "--target", str(folder), PSUTIL])
    named = {
        "affinity": ["test_process.TestProcess.test_cpu_affinity", "test_process.TestProcess.test_cpu_num"],
        "CPUs": ["test_linux.TestSystemCPUCountLogical", "test_linux.TestSystemCPUCountCores"],
        "CPU times": ["test_system.TestCpuAPIs"],
        "memory": ["test_linux.TestSystemVirtualMemoryAgainstFree", "test_linux.TestSystemSwapMemory"],
    }
    tests = [
        Test(name, [sys.executable, "-m", "unittest", *(f"psutil.tests.{test}" for test in which)], by_status)
        for name, which in named.items()
    ]
    return [Suite("psutil", folder, tests, {"PYTHONPATH": str(folder)})]


SUITES: Final = {"numactl": numactl, "ltp": ltp, "psutil": psutil}


class Missing(Exception):
    """A suite cannot be built here; the text says what is missing."""


def _sources(name: str, scratch: Path, get: Callable[[Path], Path]) -> Path:
    """Where a suite's sources are: those that are there already, or else from where they are published."""
    there = [path for path in sorted(scratch.glob(f"{name}*")) if (path / "configure.ac").is_file()]
    return there[0] if there else get(scratch)


def _once(folder: Path, *commands: Sequence[str], mark: str = "configured") -> None:
    """Run commands unless they have been run there before."""
    done = folder / f".conformance-{mark}"
    if done.exists():
        return
    for command in commands:
        _run(folder, command)
    done.touch()


def _run(folder: Path, command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        needed = "gcc, make, autoconf, automake, libtool, pkg-config, git, pip"
        raise Missing(f"no {command[0]} here (building takes {needed})") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise Missing(f"{shlex.join(command)} in {folder}: {' '.join(last)}")
