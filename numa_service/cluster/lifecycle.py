"""The life of machines on Ray, as commands see it: bring one up, describe it, take it down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from numa_service.cluster import local, records
from numa_service.cluster.actor_names import (
    NAMESPACE,
    check_machine_name,
    machines_among,
    supervisor_name,
)
from numa_service.cluster.connect import attach, detach
from numa_service.cluster.errors import ClusterError, reason
from numa_service.cluster.progress import Progress, silent
from numa_service.cluster.records import Record
from numa_service.cluster.running import FailingNode, RunningMachine
from numa_service.machine.spec import MachineSpec
from numa_service.web.options import ConsoleOptions

#: Longest time for a machine to come up: BOOT_SECONDS, and BOOT_SECONDS_PER_NODE for each node. A process
#: that imports the service needs some 3 s of one CPU.
BOOT_SECONDS = 60.0
BOOT_SECONDS_PER_NODE = 10.0
#: Longest wait for a supervisor's answer, and for all actors of a machine to end.
ANSWER_SECONDS = 10.0
GONE_SECONDS = 20.0
#: A node that was started more than MAX_STARTS times within STARTS_SECONDS is reported as failing.
MAX_STARTS = 3
STARTS_SECONDS = 300.0


def up(
    spec: MachineSpec,
    name: str,
    address: str | None = None,
    progress: Progress = silent,
    console: ConsoleOptions | None = None,
) -> RunningMachine:
    """Boot a machine on the Ray cluster at `address`, or on the local Ray if that is None.

    ClusterError when it fails. Then, and when it is interrupted, everything that it started is ended again.
    """
    from numa_service.cluster import kernels  # imports Numba, which the other commands do not need
    from numa_service.mm import jit

    check_machine_name(name)
    started = address is None and local.find() is None
    placing = False
    try:
        if address is None:
            # note what became of machines of a Ray that died: starting a new one removes its files
            records.ended()
            with kernels.compiling_here(progress, jit.is_compiled_for_nodes) as finish_compiling:
                progress("starting Ray on this host" if started else "joining the Ray of this host")
                here = local.start()
                attach(here.address)
                _check_not_up(name)
                finish_compiling()
        else:
            progress(f"joining Ray at {address}")
            attach(address)
            _check_not_up(name)
            kernels.compile_on_hosts(progress)
        progress(f"starting {len(spec.nodes)} nodes")
        placing = True
        running = _place(spec, name, progress, console)
        if address is None:
            records.write(running, here)
        return running
    except BaseException:
        if started:
            detach()
            local.stop()
        elif placing:
            _remove(name)
        raise


def ended(address: str | None = None) -> list[Record]:
    """The machines on the local Ray that were never taken down and whose Ray has died."""
    return records.ended() if address is None else []


def status(name: str | None = None, address: str | None = None) -> list[RunningMachine]:
    """The machines that are up, or only the one called `name`; ClusterError if that one is not up."""
    names = _machines() if _attach_if_there(address) else []
    if name is not None:
        _check_known(name, names, ended(address))
        names = [name]
    return [_describe(known) for known in names]


def down(name: str | None = None, address: str | None = None) -> list[str]:
    """Take one machine down, or all if `name` is None; returns their names. ClusterError if there is no such.

    A machine whose Ray has died counts too: its record is removed. The local Ray ends with its last machine;
    if all machines are to go, it is ended even if it does not answer.
    """
    names: list[str] = []
    try:
        if _attach_if_there(address):
            names = _machines()
    except ClusterError:
        if name is not None or address is not None:
            raise
    dead = [record.name for record in ended(address) if record.name not in names]
    if name is not None:
        _check_known(name, names + dead, [])
    gone = sorted(names + dead) if name is None else [name]
    last = address is None and all(known in gone for known in names)
    for machine in gone:
        if address is None:
            records.forget(machine)
        if machine in names:
            _remove(machine)
    if last:
        detach()
        local.stop()
    return gone


def _attach_if_there(address: str | None) -> bool:
    if address is None:
        here = local.find()
        if here is None:
            return False
        address = here.address
    attach(address)
    return True


def _check_not_up(name: str) -> None:
    if name in _machines():
        raise ClusterError(f"machine {name!r} is already up: numa-service down {name}")


def _check_known(name: str, known: list[str], dead: list[Record]) -> None:
    if name in known:
        return
    for record in dead:
        if record.name == name:
            raise ClusterError(
                f"machine {name!r} has ended ({record.cause}): up again, or numa-service down {name}"
            )
    raise ClusterError(f"no machine {name!r} is up (up: {', '.join(known) or 'none'})")


def _actors() -> list[str]:
    import ray

    return sorted(ray.util.list_named_actors())


def _machines() -> list[str]:
    return machines_among(_actors())


def _place(
    spec: MachineSpec, name: str, progress: Progress, console: ConsoleOptions | None
) -> RunningMachine:
    import ray

    from numa_service.cluster.supervisor import Supervisor, create_actors, place

    total = len(spec.nodes)
    group = place(spec, name)
    supervisor = (
        ray.remote(Supervisor)
        .options(
            name=supervisor_name(name),
            namespace=NAMESPACE,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=0,
        )
        .remote(spec, name, console)
    )
    # the supervisor would create them too; created here, the nodes' processes need not wait for the
    # supervisor's
    create_actors(spec, name, group)
    deadline = time.monotonic() + BOOT_SECONDS + BOOT_SECONDS_PER_NODE * total
    seen = 0
    try:
        is_up = supervisor.up.remote()
        while not ray.wait([is_up], timeout=0.2)[0]:
            if time.monotonic() > deadline:
                raise ClusterError(f"machine {name!r} did not come up in time: look at Ray's logs")
            with suppress(ray.exceptions.GetTimeoutError):
                nodes_up = ray.get(supervisor.describe.remote(), timeout=1.0).nodes_up
                if nodes_up > seen:
                    progress(f"{nodes_up} of {total} nodes are up")
                seen = nodes_up
        ray.get(is_up)
        # described again: the console starts only when all nodes are up
        running: RunningMachine = ray.get(supervisor.describe.remote(), timeout=BOOT_SECONDS)
    except (ray.exceptions.RayError, ClusterError) as error:
        raise ClusterError(f"machine {name!r}: {reason(error)}") from None
    return running


def _describe(name: str) -> RunningMachine:
    import ray

    try:
        supervisor: Any = ray.get_actor(supervisor_name(name))
        running: RunningMachine = ray.get(supervisor.describe.remote(), timeout=ANSWER_SECONDS)
    except (ray.exceptions.RayError, ValueError) as error:
        raise ClusterError(f"the supervisor of machine {name!r} does not answer: {reason(error)}") from None
    return replace(running, failing=(*running.failing, *_restarted(running)))


def _restarted(running: RunningMachine) -> Iterator[FailingNode]:
    """Nodes that were started more than MAX_STARTS times within the last STARTS_SECONDS."""
    from numa_service.cluster import registry

    since = time.time() - STARTS_SECONDS
    for node in running.info.nodes:
        starts = [when for when in registry.starts(running.info.name, node.node) if when > since]
        if len(starts) > MAX_STARTS:
            yield FailingNode(
                node.node, f"started {len(starts)} times in the last {STARTS_SECONDS / 60:.0f} minutes"
            )


def _remove(name: str) -> None:
    """End all actors of a machine, the supervisor first: else it would see the others end and log it."""
    import ray
    from ray.util.placement_group import get_placement_group, remove_placement_group

    from numa_service.cluster import registry

    def left() -> list[str]:
        return [actor for actor in _actors() if actor.startswith(f"{name}/")]

    for actor in sorted(left(), key=lambda actor: (actor != supervisor_name(name), actor)):
        with suppress(ValueError):
            ray.kill(ray.get_actor(actor), no_restart=True)
    with suppress(ValueError):
        remove_placement_group(get_placement_group(name))
    registry.forget(name)
    deadline = time.monotonic() + GONE_SECONDS
    while remaining := left():
        if time.monotonic() > deadline:
            raise ClusterError(f"actors of machine {name!r} are still there: {', '.join(remaining)}")
        time.sleep(0.05)
