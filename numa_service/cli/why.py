"""``why``: tells from a kernel's text why an allocation failed, and what would have served it."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from numa_service.cli.compile import compile_first
from numa_service.machine.formats.mem_info import ALLOC_FAILURE, OOM, SYSRQ, Report, parse_mem_info
from numa_service.machine.formats.mem_info_machine import machine_of
from numa_service.machine.input_files import MAX_BYTES, decode, read_bytes
from numa_service.machine.notation import one_line
from numa_service.machine.spec import SpecError
from numa_service.machine.verdict import (
    ABOVE_CLASS,
    BELOW_MIN,
    CAUSE_FRAGMENTED,
    CAUSE_LAST_TRY,
    CAUSE_MARKS,
    FAILING,
    LAST_TRY,
    NO_BLOCK,
    NO_MANAGED,
    NODE_FORBIDDEN,
    PASSES,
    Verdict,
    ZoneCheck,
    judge,
    size_text,
)
from numa_service.mm.gfp import Gfp

if TYPE_CHECKING:
    from numa_service.sim.claims import Claim

#: Exit status for "the numbers do not explain it".
UNEXPLAINED = 3
_KINDS = {OOM: "OOM kill", ALLOC_FAILURE: "page allocation failure", SYSRQ: "asked for by hand (sysrq)"}
_MOST_TASKS = 5
#: What came of a zone, in a word: "out" is one that the request may not use.
_KIND_OF = {
    NODE_FORBIDDEN: "out",
    ABOVE_CLASS: "out",
    NO_MANAGED: "out",
    BELOW_MIN: "below",
    NO_BLOCK: "pieces",
    LAST_TRY: "try",
    PASSES: "passes",
}
#: What memory is held as, and the counters that say how much.
_HOLDERS = {
    "anonymous": ("active_anon", "inactive_anon", "isolated_anon"),
    "page cache": ("active_file", "inactive_file", "isolated_file"),
    "unevictable": ("unevictable",),
    "slab": ("slab", "slab_reclaimable", "slab_unreclaimable"),
    "page tables": ("pagetables",),
}


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("why")(why)


def why(
    report: Annotated[
        str, typer.Argument(help="A file with the kernel's text, in any log or mail; - for standard input.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    console: Annotated[
        bool, typer.Option("--console", help="Show the verdict as a picture too, in a browser, until Ctrl-C.")
    ] = False,
) -> None:
    """Tell why an allocation failed, from what the kernel printed: an OOM kill, a page allocation failure.

    The first report in the text counts. Every remedy is run on a machine as full as that one. The exit status
    is 0 if the numbers explain the failure, and 3 if they do not.
    """
    text = decode(_content(report), report)
    read = parse_mem_info(text, report)
    verdict = judge(read)
    runs = _Runs(read, verdict, report)
    if as_json:
        typer.echo(json.dumps(_plain(read, verdict, runs), indent=1))
    else:
        for line in _text(read, verdict, runs):
            typer.echo(line)
    if console:
        with suppress(KeyboardInterrupt):
            asyncio.run(_show(_plain(read, verdict, runs)))
    raise typer.Exit(0 if verdict.explained else UNEXPLAINED)


async def _show(answer: dict[str, Any]) -> None:
    """Serve the picture until it is cancelled."""
    from numa_service.web.verdict import VerdictServer  # brings an HTTP server

    server = VerdictServer(answer)
    typer.echo(f"picture {await server.start()} (Ctrl-C ends)", err=True)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()


def _content(report: str) -> bytes:
    if report != "-":
        return read_bytes(Path(report))
    content = sys.stdin.buffer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SpecError(f"standard input: more than {MAX_BYTES >> 20} MiB: not what it is taken for")
    return content


class _Runs:
    """The request and the remedies, run on the machine of the report."""

    def __init__(self, report: Report, verdict: Verdict, source: str) -> None:
        # imported here: it brings the whole model, and its compiler
        from numa_service.node.occupy import too_large
        from numa_service.sim.claims import run_as_it_was, run_remedies

        self.was: Claim | None = None
        self.claims: list[Claim] = []
        self.notes: tuple[str, ...] = ()
        #: Why nothing was run; empty if it was.
        self.not_run = ""
        self.disagree = False
        try:
            spec = machine_of(report, source, Path(source).stem)
        except SpecError as error:
            self.not_run = str(error).removeprefix(f"{source}: ")
            return
        self.notes = spec.notes
        if too_large(spec):
            self.not_run = "more memory is in use than can be filled in one process"
            return
        compile_first()
        self.was = run_as_it_was(report, verdict, spec)
        #: The numbers say that the request must fail, and on the machine it does not.
        self.disagree = self.was.helps and verdict.cause in FAILING
        self.claims = run_remedies(report, verdict, spec)


def _text(report: Report, verdict: Verdict, runs: _Runs) -> list[str]:
    """The answer first, then what to do, then what it rests on."""
    used_up = _used_up(report, verdict)
    lines = [verdict.text[0], *used_up, *_first_aid(verdict, runs, bool(used_up))]
    lines.append(f"The request: {_headline(report)}.")
    lines += [*verdict.text[1:], ""]
    lines.append(f"The walk, up to {verdict.class_name}, in pages of {report.page_kb} kB:")
    lines += [
        f"  node {c.zone.nid} {c.zone.name:7} {_arithmetic(report, verdict, c)}" for c in verdict.checks
    ]
    if runs.claims:
        lines += ["", "What would have served this request, each run on a machine as full as this one:"]
        width = max(len(claim.text) for claim in runs.claims)
        for claim in runs.claims:
            lines.append(f"  {'yes' if claim.helps else 'no ':3}  {claim.text:{width}}  {claim.result}")
    for block in (_advice(verdict, runs), _held(report)):
        if block:
            lines += ["", *block]
    return [*lines, "", *(f"note: {note}" for note in _notes(verdict, runs))]


def _first_aid(verdict: Verdict, runs: _Runs, used_up: bool) -> list[str]:
    """One line on what would have served the request; none where that is not the question."""
    if verdict.cause not in FAILING:
        return []
    if runs.not_run:
        return [f"What would have served it is not known: {runs.not_run}."]
    helped = [claim for claim in runs.claims if claim.helps]
    if not helped:
        return ["Nothing that was tried would have served it: see what holds memory."]
    more = f"; {len(helped) - 1} more below" if len(helped) > 1 else ""
    what = "What would have served this one request" if used_up else "What would have served it"
    return [f"{what}: {helped[0].text} ({helped[0].result}){more}."]


def _notes(verdict: Verdict, runs: _Runs) -> list[str]:
    notes = [*verdict.assumed, *runs.notes]
    if runs.not_run:
        notes.append(f"nothing was run: {runs.not_run}")
    return notes


def _headline(report: Report) -> str:
    request = report.request
    who = one_line(request.comm, 40) or "somebody"
    if report.kernel:
        who += f" (Linux {one_line(report.kernel, 60)})"
    kind = _KINDS.get(request.kind or "", "the request is not in the text")
    what = [] if request.order is None or request.order < 0 else [f"order {request.order}"]
    if request.gfp_text:
        what.append(request.gfp_text)
    if request.constraint not in ("", "NONE"):
        what.append(f"constraint {request.constraint.lower().replace('_', ' ')}")
    killed = f"; killed: {', '.join(one_line(name, 40) for name in report.killed)}" if report.killed else ""
    return f"{who}: {kind}{''.join(f', {word}' for word in what)}{killed}"


def _arithmetic(report: Report, verdict: Verdict, check: ZoneCheck) -> str:
    """One zone in one line: what it had, what was needed, and what is missing."""
    if check.outcome not in (BELOW_MIN, NO_BLOCK, LAST_TRY, PASSES):
        return f"free {check.free}: {check.outcome}"
    words = [f"free {check.free}"]
    for pages, what in ((check.highatomic, "high-atomic"), (check.cma, "CMA")):
        if pages:
            words.append(f"- {pages} {what}")
    words.append(f"against {check.lowered}")
    inside = f"min {check.mark}"
    if check.boost:
        inside += f" with a boost of {check.boost}"
    if check.boost_rose:
        inside += f", risen by {check.boost_rose} since"
    if check.lowered != check.mark + check.boost_rose:
        inside += ", lowered as the request is urgent"
    words.append(f"({inside})")
    if check.reserve:
        words.append(f"+ {check.reserve} reserve")
    if check.cost:
        words.append(f"+ {check.cost} for the block")
    line = " ".join(words) + ": "
    line += f"{check.short} short" if check.short > 0 else f"{-check.short} above"
    if check.short == 0:
        line = line.replace("0 above", "just there, and must be above")
    if check.outcome == BELOW_MIN and 0 <= check.short < check.boost:
        line += f" ({check.boost - check.short} above without the boost)"
    if check.outcome == BELOW_MIN and 0 <= check.short < check.highatomic:
        line += f" ({check.highatomic - check.short} above with the high-atomic pages)"
    if check.outcome == LAST_TRY:
        line += f", and {check.short_of_high} short of high {check.high}"
    if verdict.order and check.blocks is not None:
        size = f"{report.page_kb << verdict.order} kB"
        kept = f", {check.blocks_kept} kept for high-atomic or CMA" if check.blocks_kept else ""
        line += f"; blocks of {size} or more: {check.blocks or 'none'}{kept}"
    return line


def _advice(verdict: Verdict, runs: _Runs) -> list[str]:
    """What is not run, and what a "yes" means."""
    lines = []
    helped = any(claim.helps for claim in runs.claims)
    if runs.claims and verdict.cause == CAUSE_FRAGMENTED:
        lines.append("Compaction (vm.compact_memory) is not modelled, and not among these.")
    if helped and verdict.cause == CAUSE_MARKS:
        lines.append(
            "Where memory is used up, a yes serves this request and few after it: see what holds it."
        )
    if runs.claims and not verdict.gfp & Gfp.DIRECT_RECLAIM:
        lines.append(
            "The request could not wait for reclaim. A larger vm.min_free_kbytes makes kswapd keep more free "
            "before such a request comes; that takes time, and is not run here."
        )
    if runs.was is not None and runs.was.helps and not verdict.explained:
        lines.append(f"Run on a machine as full as this one, the request is served: {runs.was.result}.")
    if runs.disagree:
        lines.append("The machine that was run disagrees: there the request is served as it was.")
    return lines


def _used_up(report: Report, verdict: Verdict) -> list[str]:
    """What had the memory, in one line, if a kill was for want of it and none was free elsewhere."""
    short_of_pages = verdict.cause in (CAUSE_MARKS, CAUSE_LAST_TRY)
    elsewhere = any(_KIND_OF[check.outcome] == "out" and check.free > check.high for check in verdict.checks)
    held = _holders(report)
    if report.request.kind != OOM or not short_of_pages or elsewhere or not held:
        return []
    unit = report.page_kb << 10
    most = max(held, key=lambda name: held[name])
    text = f"Memory was used up: {most} {size_text(held[most] * unit)}"
    managed = sum(report.pages(zone, "managed") or 0 for zone in report.zones)
    if managed:
        text += f" of {size_text(managed * unit)}"
    if most == "anonymous" and report.tasks:
        task = max(report.tasks, key=lambda task: task.columns.get("rss", 0))
        text += (
            f", {one_line(task.name, 20) or task.pid} {size_text(task.columns.get('rss', 0) * unit)} of it"
        )
    return [f"{text}. {_swap(report)}".rstrip()]


def _swap(report: Report) -> str:
    if "Total" not in report.swap_kb:
        return ""
    free, total = report.swap_kb.get("Free", 0), report.swap_kb["Total"]
    return (
        f"Swap: {size_text(free << 10)} free of {size_text(total << 10)}." if total else "There was no swap."
    )


def _holders(report: Report) -> dict[str, int]:
    """Pages by what held them, by the machine's counters, or those of its zones."""
    held = {}
    for name, fields in _HOLDERS.items():
        if report.counters:
            pages = sum(report.counters.get(field, 0) for field in fields)
        else:
            pages = sum(report.pages(zone, field) or 0 for zone in report.zones for field in fields)
        if pages:
            held[name] = pages
    return held


def _held(report: Report) -> list[str]:
    """Who held memory, and the largest tasks."""
    unit = report.page_kb << 10
    parts = [f"{name} {size_text(pages * unit)}" for name, pages in _holders(report).items()]
    lines = [f"Memory was held as: {', '.join(parts)}."] if parts else []
    if swap := _swap(report):
        lines.append(swap)
    tasks = sorted(report.tasks, key=lambda task: -task.columns.get("rss", 0))[:_MOST_TASKS]
    if tasks:
        largest = ", ".join(
            f"{one_line(task.name, 20) or task.pid} {size_text(task.columns.get('rss', 0) * unit)}"
            for task in tasks
        )
        lines.append(f"Largest of the {len(report.tasks)} tasks shown: {largest}.")
    return lines


def _plain(report: Report, verdict: Verdict, runs: _Runs) -> dict[str, Any]:
    """The answer as JSON: the same facts as the text, in pages."""
    request = report.request
    return {
        "headline": _headline(report),
        "explained": verdict.explained,
        "cause": verdict.cause,
        "verdict": verdict.text,
        "kernel": report.kernel,
        "request": {
            "kind": request.kind,
            "comm": request.comm,
            "order": request.order,
            "gfp": request.gfp_text,
            "highest_zone": verdict.class_name,
            "allowed_nodes": verdict.allowed,
            "constraint": request.constraint,
        },
        "page_kb": report.page_kb,
        "zones": [
            {
                "node": check.zone.nid,
                "zone": check.zone.name,
                "outcome": check.outcome,
                **{
                    name: getattr(check, name)
                    for name in ZoneCheck.__slots__
                    if name not in ("zone", "outcome")
                },
                "short": check.short,
                "short_of_high": check.short_of_high,
                "kind": _KIND_OF[check.outcome],
                "text": _arithmetic(report, verdict, check),
            }
            for check in verdict.checks
        ],
        "as_it_was": None if runs.was is None else asdict(runs.was),
        "disagree": runs.disagree,
        "claims": [asdict(claim) for claim in runs.claims],
        "not_run": runs.not_run,
        "advice": _advice(verdict, runs),
        "held": _held(report),
        "used_up": _used_up(report, verdict),
        "killed": report.killed,
        "notes": _notes(verdict, runs),
    }
