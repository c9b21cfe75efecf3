"""CPUs: ``/sys/devices/system/cpu`` (drivers/base/cpu.c, topology.c), ``/proc/{cpuinfo,stat,uptime}``.

The model's CPUs have a number and a node. A node's CPUs are taken to be one package of as many cores, one
thread each; numa=fake cuts nodes, not packages.
"""

from __future__ import annotations

from numa_service.mm.snapshot import MachineSnapshot
from numa_service.procfs.names import printed_by
from numa_service.procfs.node import bitmap, number_list, online_nodes

#: CONFIG_NR_CPUS of the captured distribution's kernels, less one.
_KERNEL_MAX = {"x86_64": 8191, "i386": 31}

#: As QEMU has its "QEMU Virtual CPU".
MODEL_NAME = "Emulated CPU"

#: Kinds of soft interrupts: HI to RCU.
_NR_SOFTIRQS = 10

#: Of a ``cpu`` line in /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice.
_NR_TIMES, _SYSTEM, _IDLE = 10, 2, 3
#: ``USER_HZ``: times there are in hundredths of a second.
_TICK_NS = 10**7


def cpus(snapshot: MachineSnapshot) -> list[int]:
    """Every CPU, ascending."""
    return sorted({cpu for node in snapshot.nodes for cpu in node.cpus})


def packages(snapshot: MachineSnapshot) -> list[tuple[int, ...]]:
    """CPUs of each package, in package order."""
    found: list[tuple[int, ...]] = []
    seen: set[int] = set()
    for node in snapshot.nodes:
        own = tuple(cpu for cpu in node.cpus if cpu not in seen)
        seen.update(own)
        if own:
            found.append(own)
    return found


def nodes_of_cpus(snapshot: MachineSnapshot) -> list[tuple[int, int]]:
    """(CPU, node) of every link between them: with numa=fake the first that lists it (``cpu_to_node``)."""
    first = {cpu: node.nid for node in reversed(online_nodes(snapshot)) for cpu in node.cpus}
    return sorted(first.items())


def cpu_list(snapshot: MachineSnapshot) -> str:
    """``online`` and ``present``: no CPU comes or goes."""
    return f"{number_list(cpus(snapshot))}\n"


def possible(snapshot: MachineSnapshot) -> str:
    """Every number up to the last CPU's: x86 has no gaps there (``prefill_possible_map``)."""
    return f"{number_list(range(cpus(snapshot)[-1] + 1))}\n"


def offline(snapshot: MachineSnapshot) -> str:
    """Possible numbers that no CPU has."""
    there = cpus(snapshot)
    return f"{number_list(set(range(there[-1])) - set(there))}\n"


def kernel_max(snapshot: MachineSnapshot) -> str:
    """Largest CPU number that the kernel is built for."""
    return f"{_KERNEL_MAX[snapshot.arch]}\n"


def _package(snapshot: MachineSnapshot, cpu: int) -> tuple[int, tuple[int, ...]]:
    return next((at, own) for at, own in enumerate(packages(snapshot)) if cpu in own)


def _map(snapshot: MachineSnapshot, numbers: tuple[int, ...]) -> str:
    return f"{bitmap(numbers, max(cpus(snapshot)) + 1)}\n"


def physical_package_id(snapshot: MachineSnapshot, cpu: int) -> str:
    """The CPU's package."""
    return f"{_package(snapshot, cpu)[0]}\n"


def core_id(snapshot: MachineSnapshot, cpu: int) -> str:
    """The CPU's core in its package."""
    return f"{_package(snapshot, cpu)[1].index(cpu)}\n"


def die_id(snapshot: MachineSnapshot, cpu: int) -> str:
    """A package is one die."""
    return "0\n"


def package_cpus(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the package, as a bitmap."""
    return _map(snapshot, _package(snapshot, cpu)[1])


def package_cpus_list(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the package."""
    return f"{number_list(_package(snapshot, cpu)[1])}\n"


def core_cpus(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the core, as a bitmap: itself."""
    return _map(snapshot, (cpu,))


def core_cpus_list(snapshot: MachineSnapshot, cpu: int) -> str:
    """CPUs of the core: itself."""
    return f"{cpu}\n"


#: Files of cpuN/topology. The last four names are those before 5.3, kept since.
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
    """Those of this kernel."""
    return printed_by(snapshot.profile).topology


def topology(snapshot: MachineSnapshot, cpu: int, name: str) -> str:
    """A file of cpuN/topology."""
    return TOPOLOGY[name](snapshot, cpu)


def cpuinfo(snapshot: MachineSnapshot) -> str:
    """The lines of /proc/cpuinfo that are about numbers: what kind of CPU it is, the model does not know.

    It has a name, as lscpu takes a CPU of no kind for none; and long mode, as a kernel of 64 bits needs it.
    """
    flags = "flags\t\t: lm\n" if snapshot.arch == "x86_64" else ""
    groups = packages(snapshot)
    # the APIC id has as many bits for the core as the largest package needs
    shift = (max(map(len, groups)) - 1).bit_length()
    text = ""
    for cpu in cpus(snapshot):
        package, own = _package(snapshot, cpu)
        core = own.index(cpu)
        apicid = package << shift | core
        text += (
            f"processor\t: {cpu}\n"
            f"model name\t: {MODEL_NAME}\n"
            f"physical id\t: {package}\n"
            f"siblings\t: {len(own)}\n"
            f"core id\t\t: {core}\n"
            f"cpu cores\t: {len(own)}\n"
            f"apicid\t\t: {apicid}\n"
            f"initial apicid\t: {apicid}\n"
            f"{flags}\n"
        )
    return text


def _times(snapshot: MachineSnapshot, cpu: int) -> list[int]:
    """A ``cpu`` line: work of the kernel is what is modelled. Not all 0: a CPU has at least been idle."""
    times = [0] * _NR_TIMES
    times[_SYSTEM] = sum(node.cpu_ns.get(cpu, 0) for node in snapshot.nodes) // _TICK_NS
    times[_IDLE] = snapshot.uptime.idle_ns.get(cpu, 0) // _TICK_NS
    times[_IDLE] += not any(times)
    return times


def stat(snapshot: MachineSnapshot) -> str:
    """CPU time (``fs/proc/stat.c``); interrupts, context switches and forks are not modelled: 0.

    One process runs: the reader.
    """
    times = {cpu: _times(snapshot, cpu) for cpu in cpus(snapshot)}
    rows = [f"cpu  {' '.join(map(str, map(sum, zip(*times.values(), strict=True))))}"]
    rows += [f"cpu{cpu} {' '.join(map(str, columns))}" for cpu, columns in times.items()]
    rows += ["intr 0", "ctxt 0", f"btime {snapshot.uptime.btime}", "processes 0"]
    rows += ["procs_running 1", "procs_blocked 0", f"softirq{' 0' * (1 + _NR_SOFTIRQS)}"]
    return "".join(f"{row}\n" for row in rows)


def uptime(snapshot: MachineSnapshot) -> str:
    """Seconds since boot, and idle seconds of all CPUs (``fs/proc/uptime.c``)."""
    idle = sum(snapshot.uptime.idle_ns.values()) // _TICK_NS
    ticks = snapshot.uptime.ns // _TICK_NS
    return f"{ticks // 100}.{ticks % 100:02} {idle // 100}.{idle % 100:02}\n"
