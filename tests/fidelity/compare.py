"""Compare what the emulator computes with what real kernels printed, field by field.

For every captured boot: the captured machine is booted here, with the sysctls of each `after-` file written,
and min, low, high, protection, pageset high and batch of every populated zone and the fallback order of
every node are set beside the captured ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from procfs.parse import machine_of_zoneinfo

from numa_service.machine.boot import Machine, start_kernel
from numa_service.machine.source import load
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.mm.watermark import calculate_min_free_kbytes, lowmem_pages, zone_batchsize


@dataclass(frozen=True, slots=True)
class Field:
    """One number, captured and computed."""

    capture: str
    #: "boot", or the `after-` file's name.
    file: str
    kind: str
    where: str
    captured: object
    computed: object
    #: How far off it may be, and why that is so: see :func:`_boot_slack`.
    slack: int = 0
    #: Why it may be off.
    cause: str = ""

    @property
    def equal(self) -> bool:
        """Exactly."""
        return self.captured == self.computed

    @property
    def explained(self) -> bool:
        """Equal, or off by no more than a listed cause makes it."""
        if isinstance(self.captured, int) and isinstance(self.computed, int):
            return abs(self.captured - self.computed) <= self.slack
        return self.equal


#: Cause of what differs in boot snapshots.
FREED_AFTER_INIT = "the kernel freed init memory and initrd after it had computed its numbers"


def compare(capture: Path) -> Iterator[Field]:
    """Every field of one capture."""
    machine = start_kernel(load(str(capture)))
    yield from _zoneinfo(capture, "boot", capture / "zoneinfo.txt", machine)
    yield from _fallback_order(capture, machine)
    yield from _min_free_kbytes(capture, machine)
    for after in sorted(capture.glob("zoneinfo.after-*.txt")):
        name = after.name.removeprefix("zoneinfo.").removesuffix(".txt")
        for key, value in _changed(capture / "sysctl.txt", capture / f"sysctl.{name}.txt", machine):
            machine.write_sysctl(key, value)
        yield from _zoneinfo(capture, name, after, machine)


def _freed_after_init(capture: Path) -> int:
    """Pages of init memory, initrd and gaps that the kernel says it freed, after it computed its numbers."""
    freed = re.findall(r"Freeing (?!SMP).*memory: (\d+)K", (capture / "dmesg.txt").read_text())
    return sum(map(int, freed)) // 4


def _boot_slack(freed: int, managed: int, machine: Machine, cpus: int) -> dict[str, int]:
    """How far each number of a boot snapshot may be off: by the share of the pages freed after it was made.

    Those pages are in `managed` of the snapshot, and were not when the numbers were made.
    """
    pages_min = (machine.sysctls.min_free_kbytes or 0) // 4
    lowmem = lowmem_pages(machine.managed, machine.profile)
    share = -(-pages_min * freed // (lowmem - freed)) + 1
    gap = max(-(-share // 4), freed * machine.sysctls.watermark_scale_factor // 10000 + 1)
    ratios = [ratio for ratio in machine.sysctls.lowmem_reserve_ratio if ratio]
    return {
        "min": share,
        "low": share + gap,
        "high": share + 2 * gap,
        "promo": share + 3 * gap,
        "protection": freed // min(ratios) + 1,
        "pageset batch": (
            zone_batchsize(managed, machine.profile)
            - zone_batchsize(max(managed - freed, 1), machine.profile)
        ),
        "pageset high": (share + gap) // cpus + 1,
    }


def _sysctls(path: Path) -> dict[str, str]:
    return dict(line.split(" = ", 1) for line in path.read_text().splitlines() if " = " in line)


def _changed(before: Path, after: Path, machine: Machine) -> list[tuple[str, str]]:
    """Sysctls of an `after-` file that the machine does not have yet."""
    now = machine.sysctls.as_dict()
    wanted = _sysctls(after)
    return [
        (key, wanted[key])
        for key, old in _sysctls(before).items()
        if key in wanted and wanted[key].split() != now.get(key, old).split()
    ]


def _zoneinfo(capture: Path, file: str, path: Path, machine: Machine) -> Iterator[Field]:
    captured: MachineSnapshot = machine_of_zoneinfo(path.read_text())
    computed = {(z.nid, z.name): z for n in machine.snapshot().nodes for z in n.zones}
    freed = _freed_after_init(capture) if file == "boot" else 0
    for zone in (z for node in captured.nodes for z in node.zones if z.populated):
        ours = computed[zone.nid, zone.name]
        where = f"{zone.nid}:{zone.name}"

        cpus = len(machine.spec.node(zone.nid).cpus) or len(machine.spec.cpus)
        slack = _boot_slack(freed, zone.managed, machine, cpus) if file == "boot" else {}

        def row(
            kind: str, theirs: object, mine: object, where: str = where, slack: dict[str, int] = slack
        ) -> Field:
            return Field(capture.name, file, kind, where, theirs, mine, slack.get(kind, 0), FREED_AFTER_INIT)

        yield row("managed", zone.managed, ours.managed)
        for kind in ("min", "low", "high"):
            yield row(kind, getattr(zone, f"wmark_{kind}"), getattr(ours, f"wmark_{kind}"))
        if machine.profile.has_promo:
            yield row("promo", zone.wmark_promo, ours.wmark_promo)
        for upper, (theirs, mine) in enumerate(zip(zone.protection, ours.protection, strict=True)):
            yield row("protection", theirs, mine, f"{where}[{upper}]")
        for theirs_pcp, our_pcp in zip(zone.pagesets, ours.pagesets, strict=True):
            yield row("pageset batch", theirs_pcp.batch, our_pcp.batch, f"{where} cpu{our_pcp.cpu}")
            if not machine.profile.has_promo:  # 6.12 tunes it at run time: state, not a computed number
                yield row("pageset high", theirs_pcp.high, our_pcp.high, f"{where} cpu{our_pcp.cpu}")


#: hugepage_init(): THP, and with it khugepaged, is off below this. Pages.
_THP_MIN_PAGES = 512 << 8


def _min_free_kbytes(capture: Path, machine: Machine) -> Iterator[Field]:
    """Computed for the same machine without the captured value."""
    spec = machine.spec
    others = {key: value for key, value in spec.sysctls.items() if key != "vm.min_free_kbytes"}
    if sum(machine.managed.values()) < _THP_MIN_PAGES:
        computed = calculate_min_free_kbytes(machine.managed, machine.profile)
    else:
        computed = start_kernel(replace(spec, sysctls=others), nids=()).sysctls.min_free_kbytes or 0
    captured = int(_sysctls(capture / "sysctl.txt")["vm.min_free_kbytes"])
    # a twentieth of the memory at most; or a root of it, which moves less
    slack = -(-_freed_after_init(capture) * 4 // 20)
    yield Field(
        capture.name, "boot", "min_free_kbytes", "machine", captured, computed, slack, FREED_AFTER_INIT
    )


def _fallback_order(capture: Path, machine: Machine) -> Iterator[Field]:
    text = (capture / "dmesg.txt").read_text()
    for nid, order in re.findall(r"Fallback order for Node (\d+): ([\d ]+)", text):
        captured = tuple(map(int, order.split()))
        yield Field(
            capture.name, "boot", "fallback order", nid, captured, machine.zonelists[int(nid)].node_order
        )
    zonelists = machine.snapshot().zonelists
    for label, nid, zone, refs in re.findall(
        r"mminit::zonelist (general|thisnode) (\d+):(\w+) = (.*?) *$", text, flags=re.M
    ):
        computed = " ".join(f"{n}:{z}" for n, z in zonelists[label, int(nid), zone])
        yield Field(capture.name, "boot", "zonelist", f"{label} {nid}:{zone}", refs, computed)
