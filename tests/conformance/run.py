"""``make conformance``: runs public suites on emulated machines, and prints of N, M pass.

For another system, ``--under`` names the command that runs a program there: ``--under "ssh box"``. Sources
are taken from ``--scratch`` if they are there (``numactl*/``, ``ltp*/``), else from where they are published.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from conformance.causes import NOT_EXPLAINED, cause
from conformance.suites import SUITES, Missing, Outcome, Suite, Test

ROOT = Path(__file__).resolve().parents[2]
MACHINES = ("two-socket", "four-ring", "cxl-tier")
BEGIN, END = "<!-- made by make conformance -->\n", "<!-- end -->\n"
#: A program that a test leaves behind keeps its supervisor: the test has ended when this line is there.
_ENDED = "conformance: ended with "


class Result(NamedTuple):
    """What a test said on a machine."""

    machine: str
    suite: str
    test: str
    outcome: Outcome
    cause: str = ""


def run(suite: Suite, test: Test, under: list[str], log: Path) -> tuple[Outcome, str]:
    """Run a test to its end, or to its limit; what it said."""
    script = f'cd "$1" && shift; "$@"; echo "{_ENDED}$?"'
    command = [*under, "sh", "-c", script, "sh", str(suite.folder), *test.command]
    environment = {**os.environ, **suite.environment}
    with log.open("w+b") as out:
        program = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
        )
        began = time.monotonic()
        while program.poll() is None and time.monotonic() < began + test.seconds:
            time.sleep(0.1)
            if _ENDED.encode() in log.read_bytes():
                break
        try:
            program.wait(10 if _ENDED.encode() in log.read_bytes() else 0)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    status = text.rpartition(_ENDED)[2].split()[:1]
    if _ENDED not in text:
        last = text.strip().splitlines()[-1:]
        ran = time.monotonic() - began >= test.seconds
        return Outcome.MISS, f"did not end within {test.seconds} s" if ran else f"did not begin: {last}"
    return test.judge(int(status[0]), text), ""


def table(results: list[Result]) -> str:
    """Of N, M; then each miss with its cause."""
    machines = list(dict.fromkeys(result.machine for result in results))
    lines = [f"| suite | {' | '.join(machines)} |", f"|---|{'---|' * len(machines)}"]
    for suite in dict.fromkeys(result.suite for result in results):
        cells = []
        for machine in machines:
            own = [result for result in results if (result.machine, result.suite) == (machine, suite)]
            here = [result for result in own if result.outcome is not Outcome.NOT_HERE]
            passed = sum(result.outcome is Outcome.PASS for result in here)
            apart = f" ({len(own) - len(here)} of {len(own)} do not apply)" if len(here) < len(own) else ""
            cells.append(f"{passed} of {len(here)}{apart}")
        lines.append(f"| {suite} | {' | '.join(cells)} |")
    misses = [result for result in results if result.outcome is Outcome.MISS]
    lines += ["", "| miss | on | why |", "|---|---|---|"] if misses else []
    for suite, test, why in dict.fromkeys((miss.suite, miss.test, miss.cause) for miss in misses):
        on = [miss.machine for miss in misses if (miss.suite, miss.test, miss.cause) == (suite, test, why)]
        lines.append(f"| {suite.partition(':')[0]}: {test} | {', '.join(on)} | {why} |")
    return "\n".join(lines) + "\n"


def _under(machine: str) -> list[str]:
    return [str(Path(sys.executable).parent / "numa-service"), "exec", machine, "--calls", "--"]


def main() -> int:
    """Run, print, and write the page; 1 if a miss is not explained or a suite could not be built."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", default=",".join(MACHINES), help="presets or machine files")
    parser.add_argument("--under", metavar="CMD", help="a command that runs a program on another system")
    parser.add_argument("--suites", default=",".join(SUITES))
    parser.add_argument("--tests", default="", help="only tests of these names")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build/conformance")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this page")
    given = parser.parse_args()
    scratch: Path = given.scratch.resolve()
    (scratch / "logs").mkdir(parents=True, exist_ok=True)
    suites, results, missing = list[Suite](), list[Result](), False
    for name in given.suites.split(","):
        try:
            suites += SUITES[name](scratch)
        except Missing as error:
            missing = True
            print(f"{name}: {error}", file=sys.stderr)
    systems = (
        {given.under: shlex.split(given.under)}
        if given.under
        else {machine: _under(machine) for machine in given.machines.split(",")}
    )
    wanted = set(filter(None, given.tests.split(",")))
    for system, under in systems.items():
        for suite in suites:
            for test in suite.tests:
                if wanted and test.name not in wanted:
                    continue
                log = scratch / "logs" / f"{system}.{test.name}".replace("/", "_").replace(" ", "_")
                outcome, why = run(suite, test, under, log)
                if outcome is Outcome.MISS:
                    why = why or cause(test.name)
                results.append(Result(system, suite.name, test.name, outcome, why))
                print(f"{system}  {suite.name}  {test.name}  {outcome.value}  {why}", flush=True)
    text = table(results)
    print(text)
    if given.write:
        page = given.write.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        given.write.write_text(f"{before}{BEGIN}{day}:\n\n{text}{END}{rest.split(END)[1]}", encoding="utf-8")
    return int(missing or any(result.cause == NOT_EXPLAINED for result in results))


if __name__ == "__main__":
    sys.exit(main())
