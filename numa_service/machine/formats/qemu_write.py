"""Exporter for QEMU's arguments, with which a real kernel boots on the same nodes."""

from __future__ import annotations

import shlex
from dataclasses import replace

from numa_service.machine.formats.draft import Draft, DraftNode, linux_numbers
from numa_service.machine.formats.qemu import MAX_QEMU_NODES, RAM_UNIT
from numa_service.machine.hmat import hmat_pairs, hmem_attrs
from numa_service.machine.machinefile import LOCAL_DISTANCE
from numa_service.machine.spec import SpecError


def to_qemu(draft: Draft) -> tuple[str, list[str]]:
    """(arguments, notes on what they cannot express) of a checked draft.

    Each argument is on a line of its own, and lines end with a backslash. SpecError if there are more than
    MAX_QEMU_NODES nodes.
    """
    notes: list[str] = []
    if draft.fake:
        draft = _uncut(draft)
        notes.append(f"these are the real nodes: the kernel cuts them by {draft.fake}")
    if len(draft.nodes) > MAX_QEMU_NODES:
        raise SpecError(f"QEMU has at most {MAX_QEMU_NODES} nodes, this machine {len(draft.nodes)}")
    number = {node.nid: i for i, node in enumerate(draft.nodes)}
    if any(nid != i for nid, i in number.items()):
        notes.append(f"QEMU numbers nodes from 0 without gaps: now 0-{len(number) - 1}")
    if linux_numbers(draft.nodes) != number:
        notes.append("a Linux guest numbers nodes with CPUs first, others after them")
    cpus = sorted(cpu for node in draft.nodes for cpu in node.cpus)
    cpu_number = {cpu: i for i, cpu in enumerate(cpus)}
    if cpus != list(range(len(cpus))):
        notes.append(f"QEMU numbers CPUs from 0 without gaps: now 0-{len(cpus) - 1}")
    if any(node.ranges for node in draft.nodes):
        notes.append("QEMU places memory itself: where the nodes' ranges are is left out")
    if draft.sysctls or draft.swap_pages or any(node.movable for node in draft.nodes):
        notes.append("QEMU has no sysctls, swap or ZONE_MOVABLE: left out")
    sizes = {node.nid: -(-node.bytes // RAM_UNIT) * RAM_UNIT for node in draft.nodes}
    if any(sizes[node.nid] != node.bytes for node in draft.nodes):
        notes.append(f"QEMU's memory comes in units of {RAM_UNIT >> 10} KiB: sizes were rounded up")
    hmat = list(_hmat(draft, number, notes))
    lines = ["-machine q35,hmat=on" if hmat else "-machine q35"]
    lines.append(f"-m {_size(sum(sizes.values()))}")
    lines.append(f"-smp {len(cpus)}{_levels(draft, cpu_number, notes)},maxcpus={len(cpus)}")
    owners = [node.nid for node in draft.nodes if node.cpus]
    for node in draft.nodes:
        i = number[node.nid]
        words = [f"node,nodeid={i}"]
        words += [f"cpus={_run(run)}" for run in _runs(sorted(cpu_number[cpu] for cpu in node.cpus))]
        if sizes[node.nid]:
            lines.append(f"-object memory-backend-ram,id=m{i},size={_size(sizes[node.nid])}")
            words.append(f"memdev=m{i}")
        if hmat:
            nearest = node.nid if node.cpus else min(owners, key=lambda o: (draft.distance(o, node.nid), o))
            words.append(f"initiator={number[nearest]}")
        lines.append(f"-numa {','.join(words)}")
    for a in draft.nodes:
        for b in draft.nodes:
            if len(draft.nodes) > 1:
                value = draft.distance(a.nid, b.nid)
                lines.append(f"-numa dist,src={number[a.nid]},dst={number[b.nid]},val={value}")
    lines += hmat
    if draft.cmdline:
        lines.append(f"-append {shlex.quote(draft.cmdline)}")
        notes.append("-append needs -kernel")
    return " \\\n".join(lines) + "\n", notes


def _uncut(draft: Draft) -> Draft:
    """The machine before numa=fake cut it: nodes at distance 10 of each other are one real node."""
    real: list[DraftNode] = []
    for node in draft.nodes:
        whole = next((first for first in real if draft.distance(first.nid, node.nid) == LOCAL_DISTANCE), None)
        if whole is None:
            real.append(DraftNode(node.nid, node.cpus, node.bytes))
        else:
            whole.cpus = tuple(sorted({*whole.cpus, *node.cpus}))
            whole.memory += node.bytes
    for node in real:
        node.memory = -(-node.memory >> 20) << 20  # the hole below 1 MiB is of QEMU's memory too
    return replace(draft, nodes=real, cmdline=f"{draft.cmdline} {draft.fake}".strip())


def _hmat(draft: Draft, number: dict[int, int], notes: list[str]) -> list[str]:
    """The -numa hmat-lb: latencies (ns) and bandwidths (MiB/s) from nodes with CPUs to nodes with memory."""
    model, lines = draft.latency, []
    targets = [node for node in draft.nodes if node.bytes]
    owners = [node for node in draft.nodes if node.cpus]
    told = hmat_pairs(model)
    for a in owners:
        for b in targets:
            if (a.nid, b.nid) not in told:
                continue
            read_ns, write_ns, read, write = hmem_attrs(model, a.nid, b.nid)
            head = f"-numa hmat-lb,initiator={number[a.nid]},target={number[b.nid]},hierarchy=memory"
            for name, unit, values, apart in (
                ("latency", "", (read_ns, write_ns), model.write_ns),
                ("bandwidth", "M", (read, write), model.write_mb_per_s),
            ):
                kinds = zip(("read", "write"), values, strict=True) if apart else [("access", values[0])]
                lines += [
                    f"{head},data-type={kind}-{name},{name}={value}{unit}" for kind, value in kinds if value
                ]
    if model.curves or model.memory_curve or model.link_curve:
        notes.append("HMAT has no latency curves: left out")
    return lines


def _levels(draft: Draft, cpu_number: dict[int, int], notes: list[str]) -> str:
    """The part of -smp on sockets, cores and threads, which QEMU numbers in a row; "" if they are not so."""
    packages = draft.packages or [node.cpus for node in draft.nodes if node.cpus]
    cores = draft.cores or [(cpu,) for cpu in cpu_number]
    rows = [[sorted(cpu_number[cpu] for cpu in group) for group in groups] for groups in (packages, cores)]
    counts = [len(row[0]) for row in rows]
    if all(
        row == [list(range(first, first + count)) for first in range(0, len(cpu_number), count)]
        for row, count in zip(rows, counts, strict=True)
    ):
        per_package, threads = counts
        return f",sockets={len(packages)},cores={per_package // threads},threads={threads}"
    if draft.packages:
        notes.append("QEMU's sockets and cores are CPUs in a row, as many in each: left out")
    return ""


def _size(size: int) -> str:
    for shift, unit in ((30, "G"), (20, "M")):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return f"{size >> 10}K"


def _runs(cpus: list[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for cpu in cpus:
        if runs and runs[-1][1] == cpu - 1:
            runs[-1] = (runs[-1][0], cpu)
        else:
            runs.append((cpu, cpu))
    return runs


def _run(run: tuple[int, int]) -> str:
    return f"{run[0]}" if run[0] == run[1] else f"{run[0]}-{run[1]}"
