"""``diff-profiles``: compares one machine, or the replay of one trace, under several kernel versions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from numa_service.cli.compile import compile_first
from numa_service.cli.replay import beside, machine_of
from numa_service.cli.rule_differences import RuleDifference, changed_in, rule_differences
from numa_service.cli.source import load
from numa_service.machine.boot import start_kernel
from numa_service.machine.booted import BootedMachine
from numa_service.machine.spec import MachineSpec
from numa_service.machine.sysctl import SYSCTLS
from numa_service.mm.pgdata import TUNE_MOBILITY_DISABLED, TUNE_PCP_MAX_ORDER
from numa_service.mm.profile import PROFILES, Profile, profile_named, profile_of_version
from numa_service.mm.rules.distributions import DISTRIBUTIONS
from numa_service.sim.trace_replay import Replay
from numa_service.sim.traced import TracedZones
from numa_service.trace.reader import TRACE_FILES, open_trace

#: What is compared: (group, what) → value, in the order of the table.
Facts = dict[tuple[str, str], str]

DEFAULT_PROFILES = ",".join(PROFILES)
_FILE_WIDTH = 160


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("diff-profiles")(diff_profiles)


def diff_profiles(
    source: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|SOURCE",
            help="A preset, a machine file or a capture, booted under each profile; or a trace (a file, or a "
            "directory with t.trace.gz), replayed under each.",
        ),
    ],
    profiles: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Two or more kernels, separated by commas: as machine files name them, or versions "
            "as 4.18 or 4.18.0-305.el8.x86_64.",
        ),
    ] = DEFAULT_PROFILES,
    machine: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="For a trace: the machine, as for replay.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    everything: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Print what is equal under all of them, too; and, for a machine, the release in which each "
            "answer changed.",
        ),
    ] = False,
) -> None:
    """What changes between kernels, on one machine or for one workload, and by which rules.

    Each rule is shown with the release in which it changed and with who says so: a capture, a public report,
    or the kernel's source only. Rules that nothing here models are shown as such.

    Sysctls of the source that it sets itself stay; all else is computed by each kernel's rules.
    """
    show_differences(source, profiles, machine, as_json, everything, _from_counts)


def show_differences(
    source: str,
    profiles: str,
    machine: str | None,
    as_json: bool,
    everything: bool,
    start: Callable[[MachineSpec, Path, Path], Replay],
) -> None:
    """Carry out the command. `start(spec, trace, its directory)` boots a machine to replay a trace on."""
    names = _names(profiles)
    path = Path(source)
    is_trace = path.is_file() and path.suffix != ".toml"
    is_trace |= path.is_dir() and any((path / name).is_file() for name in TRACE_FILES)
    if is_trace:
        home = path if path.is_dir() else path.parent
        traced_spec = machine_of(machine, home)

        def facts(name: str) -> Facts:
            compile_first()
            return _replayed(start(under(traced_spec, name, captured=True), path, home), path)

    else:
        if machine is not None:
            raise typer.BadParameter("only for a trace", param_hint="--machine")
        spec = load(source)
        captured = path.is_dir()

        def facts(name: str) -> Facts:
            return booted(start_kernel(under(spec, name, captured)))

    console = Console(stderr=True)
    by_profile: dict[str, Facts] = {}
    for name in names:
        with console.status(f"{'replaying' if is_trace else 'booting'} under {name}"):
            by_profile[name] = facts(name)
    rows = differences(by_profile, everything)
    releases: dict[tuple[str, str], list[str]] | None = None
    if everything and not is_trace:
        with console.status("booting under the releases between"):
            releases = changed_in(names, facts)
    rules = rule_differences(names)
    if as_json:
        typer.echo(json.dumps(_plain(source, is_trace, names, rows, releases, rules), indent=1))
    else:
        _print(source, is_trace, names, rows, releases)
        _print_rules(names, rules)


def under(spec: MachineSpec, profile: str, captured: bool) -> MachineSpec:
    """The machine with another kernel.

    A capture has a value for every sysctl, whether somebody set it or not. So the other kernel chooses those
    that are at their default, those that it does not have, and min_free_kbytes, which a kernel computes.
    """
    sysctls = spec.sysctls
    if captured:
        sysctls = {
            key: value
            for key, value in spec.sysctls.items()
            if key in SYSCTLS
            and key not in ("vm.min_free_kbytes", "vm.lowmem_reserve_ratio")
            and SYSCTLS[key].is_in(profile)
            and value != SYSCTLS[key].default_in(spec.profile)
        }
    return dataclasses.replace(spec, profile=profile, sysctls=sysctls)


def differences(by_profile: dict[str, Facts], everything: bool = False) -> dict[tuple[str, str], list[str]]:
    """(group, what) → its value under each profile, "–" where there is none; equal ones if `everything`."""
    keys = dict.fromkeys(key for facts in by_profile.values() for key in facts)
    rows = {key: [facts.get(key, "–") for facts in by_profile.values()] for key in keys}
    return {key: row for key, row in rows.items() if everything or len(set(row)) > 1}


def booted(machine: BootedMachine) -> Facts:
    """The facts that a kernel computes for a machine at boot."""
    facts: Facts = {("sysctl", key): str(value) for key, value in machine.sysctls.as_dict().items()}
    pgdats = list(machine.pgdats.values())
    first = next(iter(pgdats)).pg
    mobility = "off" if first.tune[TUNE_MOBILITY_DISABLED] else "on"
    facts["pages", "grouping by mobility"] = mobility
    facts["pages", "migratetypes"] = " ".join(name for name in machine.profile.migratetype_names if name)
    max_order = int(first.tune[TUNE_PCP_MAX_ORDER])
    facts["pagesets", "orders kept"] = f"0-{max_order} and THP" if max_order else "0"
    for node in machine.snapshot().nodes:
        for zone in (zone for zone in node.zones if zone.managed):
            group = f"{zone.nid}:{zone.name}"
            facts[group, "min"] = str(zone.wmark_min)
            facts[group, "low"] = str(zone.wmark_low)
            facts[group, "high"] = str(zone.wmark_high)
            facts[group, "protection"] = " ".join(map(str, zone.protection))
            facts[group, "pageset batch"] = str(zone.pagesets[0].batch)
            highs = dict.fromkeys(pageset.high for pageset in zone.pagesets)
            facts[group, "pageset high"] = "/".join(map(str, highs))
            facts[group, "pageblocks"] = " ".join(map(str, zone.pageblocks))
    for nid, lists in machine.zonelists.items():
        facts["zonelist", f"node {nid}: nodes"] = " ".join(map(str, lists.node_order))
        zones = (f"{ref.nid}:{machine.pgdats[nid].zone_names[ref.zone]}" for ref in lists.fallback)
        facts["zonelist", f"node {nid}: zones"] = " ".join(zones)
    return facts


def _from_counts(spec: MachineSpec, trace: Path, home: Path) -> Replay:
    """A machine to replay on that holds as many pages as were in use before the trace, if that is known."""
    before = beside(home, "before")
    if before is None:
        return Replay(spec)
    traced = TracedZones.read(before, spec.arch)
    return Replay(traced.fit(spec)[0], traced)


def _replayed(replay: Replay, trace: Path) -> Facts:
    """Replay a trace; returns the facts about where pages went and what it took to get them."""
    with open_trace(trace) as reader:
        replay.run(reader)
        report = replay.tally.report(reader.counts)
    facts: Facts = {
        ("allocations", "served"): f"{report.allocs}",
        ("allocations", "failed here"): f"{report.unmatched['alloc_failed_here']}",
        ("allocations", "local"): f"{report.local}",
        ("allocations", "remote"): f"{report.remote}",
        ("allocations", "on the traced node"): f"{report.agreement.same_node}",
        ("migratetypes", "fallbacks"): f"{report.steals}",
        ("pagesets", "blocks refilled"): f"{report.refilled}",
        ("pagesets", "blocks drained"): f"{report.drained}",
        ("kswapd", "wakeups"): f"{replay.kswapd_wakeups}",
        ("reclaim", "direct reclaim attempts"): f"{replay.direct_reclaims}",
        ("invariants", "violated"): f"{len(report.problems)}",
    }
    for placed in report.placed:
        facts["pages placed", f"{placed.nid}:{placed.zone}"] = f"{placed.pages}"
    for nid, counters in report.numastat.items():
        for name, value in counters.items():
            facts[f"numastat node {nid}", name] = f"{value}"
    for zone in report.zones:
        facts["free at the end", f"{zone.nid}:{zone.zone}"] = f"{zone.free}"
        facts["on pagesets at the end", f"{zone.nid}:{zone.zone}"] = f"{zone.pageset}"
    for line in report.buddyinfo.splitlines():
        where, counts = line.split()[:4], line.split()[4:]
        facts["buddyinfo", f"{where[1].rstrip(',')}:{where[3]}"] = " ".join(counts)
    return facts


def _names(text: str) -> list[str]:
    try:
        names = [_profile(name.strip()).name for name in text.split(",") if name.strip()]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--profiles") from None
    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise typer.BadParameter("name two or more, each once", param_hint="--profiles")
    return names


def _profile(text: str) -> Profile:
    """The profile of this name, or of this version."""
    return profile_of_version(text) if text[:1].isdecimal() else profile_named(text)


def _plain(
    source: str,
    is_trace: bool,
    names: list[str],
    rows: dict[tuple[str, str], list[str]],
    releases: dict[tuple[str, str], list[str]] | None,
    rules: list[RuleDifference],
) -> dict[str, Any]:
    def told(key: tuple[str, str], row: list[str]) -> dict[str, Any]:
        plain = {"group": key[0], "what": key[1], "values": dict(zip(names, row, strict=True))}
        return plain if releases is None else {**plain, "changed_in": releases.get(key, [])}

    return {
        "source": source,
        "kind": "trace" if is_trace else "machine",
        "profiles": names,
        "differences": [told(key, row) for key, row in rows.items()],
        "rules": [rule.plain(names) for rule in rules],
    }


def _console() -> Console:
    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def _print(
    source: str,
    is_trace: bool,
    names: list[str],
    rows: dict[tuple[str, str], list[str]],
    releases: dict[tuple[str, str], list[str]] | None,
) -> None:
    console = _console()
    if not rows:
        console.print(f"{source}: nothing differs between {', '.join(names)}", highlight=False)
        return
    title = f"{source}: {'replayed' if is_trace else 'booted'} under each kernel"
    table = Table("", "", title=title, title_justify="left")
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    if releases is not None:
        table.add_column("changed in", overflow="fold")
    before = ""
    for (group, what), row in rows.items():
        if before not in ("", group):
            table.add_section()
        told = [] if releases is None else [", ".join(releases.get((group, what), []))]
        table.add_row(group if group != before else "", what, *row, *told)
        before = group
    console.print(table)


def _print_rules(names: list[str], rules: list[RuleDifference]) -> None:
    if not rules:
        return
    table = Table("", "rule", title="Rules that differ", title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    table.add_column("changed in", overflow="fold")
    table.add_column("seen in", overflow="fold")
    before = ""
    for rule in rules:
        if before not in ("", rule.group):
            table.add_section()
        table.add_row(
            rule.group if rule.group != before else "",
            rule.axis.what if rule.axis.what != "the kernel has the sysctl" else rule.axis.name,
            *rule.values,
            rule.releases,
            "; ".join(dict.fromkeys(change.witness for change in rule.changes)),
        )
        before = rule.group
    console = _console()
    console.print(table)
    notes = {rule.axis.what: rule.axis.note for rule in rules if rule.axis.note}
    for name in names:
        distribution = profile_named(name).distribution
        if distribution:
            notes[name] = DISTRIBUTIONS[distribution].note
    for what, note in notes.items():
        console.print(f"{what}: {note}", highlight=False)
