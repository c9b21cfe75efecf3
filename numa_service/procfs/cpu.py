"""CPUs: ``/sys/devices/system/cpu`` (drivers/base/cpu.c, topology.c), ``/proc/{cpuinfo,stat,uptime}``.

Where a machine file does not say which CPUs are packages and cores, the CPUs of a node are one package of as
many cores with one thread each; numa=fake cuts nodes, but not packages.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from numa_service.machine.notation import format_cpulist
from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.names import printed_by
from numa_service.procfs.node import bitmap, online_nodes

#: CONFIG_NR_CPUS - 1 of the captured distribution's kernels.
_KERNEL_MAX = {"x86_64": 8191, "i386": 31}

#: Model name in /proc/cpuinfo, as QEMU has "QEMU Virtual CPU".
MODEL_NAME = "Emulated CPU"

#: Number of softirqs, from HI to RCU.
_NR_SOFTIRQS = 10

#: Columns of a ``cpu`` line in /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, guest,
#: guest_nice.
_NR_TIMES, _SYSTEM, _IDLE = 10, 2, 3
#: ns of a tick of ``USER_HZ``, the unit of times in /proc/stat.
_TICK_NS = 10**7


def cpus(snapshot: MachineSnapshot) -> list[int]:
    """Numbers of all CPUs, ascending."""
    return sorted({cpu for node in snapshot.nodes for cpu in node.cpus})


def packages(snapshot: MachineSnapshot) -> list[tuple[int, ...]]:
    """CPUs of each package, in package order."""
    if snapshot.packages:
        return list(snapshot.packages)
    found: list[tuple[int, ...]] = []
    seen: set[int] = set()
    for node in snapshot.nodes:
        own = tuple(cpu for cpu in node.cpus if cpu not in seen)
        seen.update(own)
        if own:
            found.append(own)
    return found


def cpus_of_node(snapshot: MachineSnapshot, nid: int) -> Iterator[int]:
    """CPUs of an on-line node, ascending; not those that an earlier node lists, which are that node's."""
    earlier: set[int] = set()
    for node in online_nodes(snapshot):
        if node.nid == nid:
            yield from sorted(set(node.cpus) - earlier)
        earlier.update(node.cpus)


def nodes_of_cpu(snapshot: MachineSnapshot, cpu: int) -> Iterator[int]:
    """The node of a CPU: with numa=fake the first that lists the CPU (``cpu_to_node``)."""
    return islice((node.nid for node in online_nodes(snapshot) if cpu in node.cpus), 1)


def cpu_list(snapshot: MachineSnapshot) -> str:
    """The files ``online`` and ``present``, which are the same: no CPU comes or goes."""
    return f"{format_cpulist(cpus(snapshot))}\n"


def possible(snapshot: MachineSnapshot) -> str:
    """The file ``possible``: every number up to the last CPU's, as on x86 (``prefill_possible_map``)."""
    return f"{format_cpulist(range(cpus(snapshot)[-1] + 1))}\n"


def offline(snapshot: MachineSnapshot) -> str:
    """The file ``offline``: possible numbers that no CPU has."""
    there = cpus(snapshot)
    return f"{format_cpulist(set(range(there[-1])) - set(there))}\n"


def kernel_max(snapshot: MachineSnapshot) -> str:
    """The file ``kernel_max``: the largest CPU number that the kernel is built for."""
    return f"{_KERNEL_MAX[snapshot.arch]}\n"


def _package(snapshot: MachineSnapshot, cpu: int) -> tuple[int, tuple[int, ...]]:
    return next((at, own) for at, own in enumerate(packages(snapshot)) if cpu in own)


def _core(snapshot: MachineSnapshot, cpu: int) -> tuple[int, tuple[int, ...]]:
    """(number of the CPU's core in its package, CPUs of the core)."""
    _, own = _package(snapshot, cpu)
    if not snapshot.cores:
        return own.index(cpu), (cpu,)
    inside = [core for core in snapshot.cores if core[0] in own]
    return next((at, core) for at, core in enumerate(inside) if cpu in core)


def _map(snapshot: MachineSnapshot, numbers: tuple[int, ...]) -> str:
    return f"{bitmap(numbers, max(cpus(snapshot)) + 1)}\n"


def physical_package_id(snapshot: MachineSnapshot, cpu: int) -> str:
    """Number of the CPU's package."""
    return f"{_package(snapshot, cpu)[0]}\n"


def core_id(snapshot: MachineSnapshot, cpu: int) -> str:
    """Number of the CPU's core in its package."""
    return f"{_core(snapshot, cpu)[0]}\n"


def die_id(snapshot: MachineSnapshot, cpu: int) -> str:
    """Number of the CPU's die: 0, as a package is one die."""
    return "0\n"


def package_cpus(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the CPU's package as a bitmap."""
    return _map(snapshot, _package(snapshot, cpu)[1])


def package_cpus_list(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the CPU's package as a list."""
    return f"{format_cpulist(_package(snapshot, cpu)[1])}\n"


def core_cpus(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the CPU's core as a bitmap."""
    return _map(snapshot, _core(snapshot, cpu)[1])


def core_cpus_list(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the CPU's core as a list."""
    return f"{format_cpulist(_core(snapshot, cpu)[1])}\n"


#: Renderers of the files of cpuN/topology. The last four names are those from before 5.3, which were kept.
TOPOLOGY = {
    "physical_package_id": physical_package_id,
    "core_id": core_id,
    "die_id": die_id,
    "package_cpus": package_cpus,
    "package_cpus_list": package_cpus_list,
    "die_cpus": package_cpus,
    "die_cpus_list": package_cpus_list,
    "core_cpus": core_cpus,
    "core_cpus_list": core_cpus_list,
    "core_siblings": package_cpus,
    "core_siblings_list": package_cpus_list,
    "thread_siblings": core_cpus,
    "thread_siblings_list": core_cpus_list,
}


def topology_names(snapshot: MachineSnapshot) -> tuple[str, ...]:
    """Names of the files of cpuN/topology that the snapshot's kernel has."""
    return printed_by(snapshot.profile).topology


def topology(snapshot: MachineSnapshot, cpu: int, name: str) -> str:
    """The text of a file of cpuN/topology."""
    return TOPOLOGY[name](snapshot, cpu)


def cpuinfo(snapshot: MachineSnapshot) -> str:
    """The lines of /proc/cpuinfo that number CPUs, cores and packages; the model knows no kinds of CPUs.

    There is a model name, since lscpu ignores a CPU without one, and on x86-64 the flag of long mode.
    """
    flags = "flags\t\t: lm\n" if snapshot.arch == "x86_64" else ""
    cores: dict[int, list[tuple[int, ...]]] = {}
    for core in snapshot.cores or [(cpu,) for cpu in cpus(snapshot)]:
        cores.setdefault(_package(snapshot, core[0])[0], []).append(core)
    # the APIC id has as many bits for the core as the largest package needs, and for the thread likewise
    threads = (max(len(core) for inside in cores.values() for core in inside) - 1).bit_length()
    shift = (max(map(len, cores.values())) - 1).bit_length() + threads
    places = {cpu: (at, core) for inside in cores.values() for at, core in enumerate(inside) for cpu in core}
    text = ""
    for cpu in cpus(snapshot):
        package, own = _package(snapshot, cpu)
        number, core = places[cpu]
        apicid = package << shift | number << threads | core.index(cpu)
        text += (
            f"processor\t: {cpu}\n"
            f"model name\t: {MODEL_NAME}\n"
            f"physical id\t: {package}\n"
            f"siblings\t: {len(own)}\n"
            f"core id\t\t: {number}\n"
            f"cpu cores\t: {len(cores[package])}\n"
            f"apicid\t\t: {apicid}\n"
            f"initial apicid\t: {apicid}\n"
            f"{flags}\n"
        )
    return text


def _times(snapshot: MachineSnapshot, cpu: int) -> list[int]:
    """Times of a ``cpu`` line in ticks. Only system and idle are modelled; idle is 1 if all would be 0."""
    times = [0] * _NR_TIMES
    times[_SYSTEM] = sum(node.cpu_ns.get(cpu, 0) for node in snapshot.nodes) // _TICK_NS
    times[_IDLE] = snapshot.uptime.idle_ns.get(cpu, 0) // _TICK_NS
    times[_IDLE] += not any(times)
    return times


def stat(snapshot: MachineSnapshot) -> str:
    """The file /proc/stat (``fs/proc/stat.c``).

    Interrupts, context switches and forks are not modelled, and are 0; one process runs, the reader.
    """
    times = {cpu: _times(snapshot, cpu) for cpu in cpus(snapshot)}
    rows = [f"cpu  {' '.join(map(str, map(sum, zip(*times.values(), strict=True))))}"]
    rows += [f"cpu{cpu} {' '.join(map(str, columns))}" for cpu, columns in times.items()]
    rows += ["intr 0", "ctxt 0", f"btime {snapshot.uptime.btime}", "processes 0"]
    rows += ["procs_running 1", "procs_blocked 0", f"softirq{' 0' * (1 + _NR_SOFTIRQS)}"]
    return "".join(f"{row}\n" for row in rows)


def uptime(snapshot: MachineSnapshot) -> str:
    """The file /proc/uptime: seconds since boot, and idle seconds of all CPUs (``fs/proc/uptime.c``)."""
    idle = sum(snapshot.uptime.idle_ns.values()) // _TICK_NS
    ticks = snapshot.uptime.ns // _TICK_NS
    return f"{ticks // 100}.{ticks % 100:02} {idle // 100}.{idle % 100:02}\n"
