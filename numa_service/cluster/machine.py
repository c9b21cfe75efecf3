"""Machines on Ray, from outside: bring one up, look at it, take it down."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from numa_service.cluster import local, records
from numa_service.cluster.connect import attach, detach
from numa_service.cluster.errors import ClusterError, reason
from numa_service.cluster.names import (
    NAMESPACE,
    check_machine_name,
    machines_among,
    supervisor_name,
)
from numa_service.cluster.progress import Progress, silent
from numa_service.cluster.records import Record
from numa_service.cluster.running import FailingNode, RunningMachine
from numa_service.machine.spec import MachineSpec
from numa_service.web.options import ConsoleOptions

#: For an actor to start and to answer: a process that imports the service takes some 3 s of one CPU.
BOOT_SECONDS = 60.0
BOOT_SECONDS_PER_NODE = 10.0
ANSWER_SECONDS = 10.0
GONE_SECONDS = 20.0
#: A node that has been started more often than so within so many seconds keeps failing.
MAX_STARTS = 3
STARTS_SECONDS = 300.0


def up(
    spec: MachineSpec,
    name: str,
    address: str | None = None,
    progress: Progress = silent,
    console: ConsoleOptions | None = None,
) -> RunningMachine:
    """Boot a machine, with or without a console, on the Ray cluster at `address` or here; ClusterError.

    When it fails or is interrupted, everything that it started is ended again.
    """
    from numa_service.cluster import kernels  # with Numba, which nobody else here needs
    from numa_service.mm import jit

    check_machine_name(name)
    started = address is None and local.find() is None
    placing = False
    try:
        if address is None:
            records.ended()  # what became of machines of a Ray that died is seen from its files, and they go
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
    """The machines that were brought up here and never taken down, and whose Ray has died."""
    return records.ended() if address is None else []


def status(name: str | None = None, address: str | None = None) -> list[RunningMachine]:
    """The machines that are up, or the one of that name; ClusterError if it is not."""
    names = _machines() if _attach_if_there(address) else []
    if name is not None:
        _check_known(name, names, ended(address))
        names = [name]
    return [_describe(known) for known in names]


def down(name: str | None = None, address: str | None = None) -> list[str]:
    """Take a machine down, or all of them; their names. ClusterError if there is none of that name.

    One that has died counts: what is left of it goes. The local Ray ends with its last machine, and if all
    are to go it ends even if it does not answer.
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

    from numa_service.cluster.supervisor import Machine, create_actors, place

    total = len(spec.nodes)
    group = place(spec, name)
    supervisor = (
        ray.remote(Machine)
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
    # it would, too; but the processes of the nodes need not wait for its own
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
        # a console starts only now
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
    """Nodes that were started too often of late."""
    from numa_service.cluster import registry

    since = time.time() - STARTS_SECONDS
    for node in running.info.nodes:
        starts = [when for when in registry.starts(running.info.name, node.node) if when > since]
        if len(starts) > MAX_STARTS:
            yield FailingNode(
                node.node, f"started {len(starts)} times in the last {STARTS_SECONDS / 60:.0f} minutes"
            )


def _remove(name: str) -> None:
    """End all actors of a machine: the supervisor first, so that it does not see the others go."""
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
