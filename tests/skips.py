"""The one list of the tests that may be skipped, and the plugin by which any other skip is a failure.

Tests have real programs as judges, and some need what a host may forbid. Where those are missing, their tests
are skipped; where NUMA_EVERY_JUDGE is set, as `.ci/run` does once they are all installed, none is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator

import pytest

#: Programs that tests need, by the Debian packages that have them: `.ci/run` installs all of these.
TOOLS = {
    "chromium-headless-shell": "chromium-headless-shell",
    "dot": "graphviz",
    "free": "procps",
    "irqbalance": "irqbalance",
    "hwloc-annotate": "hwloc-nox",
    "hwloc-gather-topology": "hwloc-nox",
    "lscpu": "util-linux",
    "lstopo-no-graphics": "hwloc-nox",
    "mpstat": "sysstat",
    "nproc": "coreutils",
    "numactl": "numactl",
    "numastat": "numactl",
    "prometheus": "prometheus",
    "prometheus-node-exporter": "prometheus-node-exporter",
    "promtool": "prometheus",
    "pmap": "procps",
    "ps": "procps",
    "qemu-system-x86_64": "qemu-system-x86",
    "setpriv": "util-linux",
    "slabtop": "procps",
    "vmstat": "procps",
}
#: Set where nothing may be missing.
EVERY_JUDGE = "NUMA_EVERY_JUDGE"
#: Those that were not here when the tests began.
ABSENT = {tool for tool in TOOLS if shutil.which(tool) is None}

#: What a host may not allow or have.
NO_MOUNT_NAMESPACE = "no mount namespace here: neither root nor user namespaces"
NO_USER_NAMESPACE = "no user namespaces here for who is not root"
NO_LIMITS_TO_SET = "no user namespace here whose limits can be set"
NO_PYTHON_FOR_OTHERS = "no /usr/bin/python3 that other users may run"
NO_ZONEINFO = "no /proc/zoneinfo here to gather"
NOT_ROOT = "only root may become somebody else"
NO_USER_NOTIFICATION = "no seccomp user notification here"
HOST = {
    NO_MOUNT_NAMESPACE,
    NO_USER_NAMESPACE,
    NO_LIMITS_TO_SET,
    NO_PYTHON_FOR_OTHERS,
    NO_ZONEINFO,
    NOT_ROOT,
    NO_USER_NOTIFICATION,
}

#: Collections of others' files, which are read where an environment variable says where they are.
NO_MEM_INFO = "NUMA_MEM_INFO names no directory with Mem-Info reports and their index"
NO_CORPORA = "neither ../shared/corpora nor NUMA_CORPORA has the collections of others' files"
CORPORA = {NO_MEM_INFO, NO_CORPORA}


def missing(*tools: str) -> str:
    """Which of these programs are absent, and how to get them; empty if none is. KeyError: not listed."""
    packages = {tool: TOOLS[tool] for tool in tools}
    gone = [tool for tool in tools if tool in ABSENT]
    return "; ".join(f"{tool} is not installed (Debian package {packages[tool]})" for tool in gone)


def needs(*tools: str) -> pytest.MarkDecorator:
    """Marks a test that needs these programs."""
    return pytest.mark.skipif(bool(missing(*tools)), reason=missing(*tools) or "they are installed")


def refusal(reason: str) -> str:
    """Why a test must not be skipped for this reason; empty if it may be."""
    if reason in CORPORA:
        return ""
    if reason not in HOST and not all(part in map(missing, ABSENT) for part in reason.split("; ")):
        return "this skip is not in the list of those expected (tests/skips.py)"
    if os.environ.get(EVERY_JUDGE):
        return f"nothing may be missing where {EVERY_JUDGE} is set"
    return ""


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if why := refusal(reason):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped: {reason}: {why}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that is skipped for a reason that is not expected has failed."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """So has a whole file (importorskip)."""
    report = yield
    _refuse(report)
    return report
