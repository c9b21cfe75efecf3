"""A skip that nobody expects is a failure, and so is every skip where every judge is said to be there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from skips import EVERY_JUDGE, HOST, NO_ZONEINFO, TOOLS

TESTS = Path(__file__).resolve().parent


def outcomes(folder: Path, body: str, **environment: str) -> tuple[int, str]:
    """Of a run of pytest on one file with the plugin: exit code, output."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "test_it.py").write_text(f"import pytest\nfrom skips import *\n{body}")
    env = {key: value for key, value in os.environ.items() if key != EVERY_JUDGE}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "skips", "-p", "no:cacheprovider", str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env=env | {"PYTHONPATH": str(TESTS)} | environment,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "body",
    [
        "def test_it():\n    pytest.skip('no captures here')\n",
        "@pytest.mark.skip(reason='later')\ndef test_it(): ...\n",
        "pytest.importorskip('no_such_module_at_all')\ndef test_it(): ...\n",
        "@pytest.fixture\ndef it():\n    pytest.skip('not today')\ndef test_it(it): ...\n",
        # a tool that is there
        "def test_it():\n    pytest.skip('sh is not installed (Debian package dash)')\n",
    ],
)
def test_an_unexpected_skip_fails(tmp_path: Path, body: str) -> None:
    code, said = outcomes(tmp_path, body)
    assert code in (1, 2), said  # 2: of a whole file
    assert "this skip is not in the list of those expected (tests/skips.py)" in said


@pytest.mark.parametrize("tool", ["numactl", "dot"])
def test_a_missing_tool_is_a_skip_and_in_ci_a_failure(tmp_path: Path, tool: str) -> None:
    body = f"@needs('{tool}')\ndef test_it(): ...\n"
    code, said = outcomes(tmp_path, body, PATH="/nowhere")
    assert (code, "1 skipped" in said) == (0, True), said
    code, said = outcomes(tmp_path, body, PATH="/nowhere", NUMA_EVERY_JUDGE="1")
    assert code == 1, said
    assert f"{tool} is not installed (Debian package {TOOLS[tool]})" in said
    assert "nothing may be missing where NUMA_EVERY_JUDGE is set" in said


def test_what_a_host_forbids_is_a_skip_and_in_ci_a_failure(tmp_path: Path) -> None:
    body = "def test_it():\n    pytest.skip(NO_ZONEINFO)\n"
    assert outcomes(tmp_path, body)[0] == 0
    assert outcomes(tmp_path, body, NUMA_EVERY_JUDGE="1")[0] == 1
    assert NO_ZONEINFO in HOST


def test_xfail_is_no_skip(tmp_path: Path) -> None:
    assert (
        outcomes(tmp_path, "@pytest.mark.xfail\ndef test_it(): assert False\n", NUMA_EVERY_JUDGE="1")[0] == 0
    )


def test_ci_installs_every_tool_and_says_so() -> None:
    script = (TESTS.parent / ".ci" / "run").read_text()
    (judges,) = re.findall(r'^judges="([^"]*)"$', script, flags=re.M)
    assert set(TOOLS.values()) <= {
        *judges.split(),
        "util-linux",
        "coreutils",
    }  # those are essential to Debian
    assert re.search(rf"^ *export {EVERY_JUDGE}=1$", script, flags=re.M)
