"""The blocking client. Safe to use from several threads.

Made by ``make sync`` from the asyncio one: change that.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import uuid4

import grpc

from numa_client import _codec as codec
from numa_client import _kernel_codec as kernel_codec
from numa_client import _types as t
from numa_client._channel import DEFAULT_TIMEOUT, blocking_channel
from numa_client._errors import (
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    NumaError,
    Unavailable,
)
from numa_client._files import DirEntry, TreeFile
from numa_client._gen.numa.v1 import (
    files_service_pb2,
    files_service_pb2_grpc,
    kmem_service_pb2,
    kmem_service_pb2_grpc,
    machine_service_pb2,
    machine_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
)
from numa_client._search import Search, Visit, check_lineage, no_answer, unreachable, wait_for_room
from numa_client._status import from_rpc_error
from numa_client._sync_session import Session, call

if TYPE_CHECKING:
    Method = grpc.UnaryUnaryMultiCallable

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


def _tree(call: Iterable[files_service_pb2.ReadTreeResponse]) -> tuple[TreeFile, ...]:
    try:
        return tuple([file for part in call for file in codec.tree_files(part)])
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


class Machine:
    """A machine and the channels to its nodes. ``timeout`` is the deadline of every call, in seconds."""

    #: Topology as of the last :meth:`refresh`.
    info: t.MachineInfo

    def __init__(self, channel: grpc.Channel, target: str, timeout: float) -> None:
        self._machine = machine_service_pb2_grpc.MachineServiceStub(channel)
        self._files = files_service_pb2_grpc.FilesServiceStub(channel)
        self._channel = channel
        self._target = target
        self._timeout = timeout
        self._nodes: dict[str, grpc.Channel] = {}
        #: Nodes that did not answer a call: before the next call the machine is asked for their addresses.
        self._doubted: set[int] = set()
        self._closed = False

    @classmethod
    def connect(cls, target: str, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """Connects to the MachineService at ``host:port`` and reads the topology.

        Unavailable if nobody has answered there within `timeout` seconds.
        """
        channel = blocking_channel(target)
        machine = cls(channel, target, timeout)
        try:
            machine.refresh()
        except BaseException:
            channel.close()
            raise
        return machine

    def refresh(self) -> t.MachineInfo:
        """Reads the topology again: a node that restarted has a new address."""
        self.info = self._look(self._read)
        return self.info

    def _read(self, timeout: float) -> t.MachineInfo:
        return codec.machine_info(
            call(self._machine.GetMachine, machine_service_pb2.GetMachineRequest(), timeout)
        )

    def session(
        self,
        *,
        cpu: int | None = None,
        node: int | None = None,
        lease_seconds: float = 30,
        name: str = "numa_client",
    ) -> Session:
        """A session on the node of `cpu`, or on `node` with its first CPU; the lowest CPU by default.

        Use it as a context manager, or open and close it. InvalidRequest for an unknown CPU or node.
        """
        home, cpu = codec.home(self.info, cpu, node)
        return Session(self, home.node, cpu, lease_seconds, name)

    def node(self, nid: int, *, digest: bool = False) -> t.NodeState:
        """Reads the current state of one node; with its digest only on request, as that reads every page."""
        home, _ = codec.home(self.info, None, nid)
        request = node_service_pb2.GetNodeRequest(with_digest=digest)
        return codec.node_state(self._ask(home.node, lambda node: node.GetNode, request))

    def write_sysctl(self, key: str, value: str) -> str:
        """Writes a sysctl (``vm.min_free_kbytes``) of the machine: on every node, later on one that is away.

        Returns a note if the value is only kept and shown, as nothing in the model depends on it; else "".
        NotFound (ENOENT) for an unknown sysctl, InvalidRequest (EINVAL) for a wrong value.
        """
        request = codec.write_request(f"/proc/sys/{key.strip().replace('.', '/')}", value)
        response = self._look(lambda left: call(self._files.WriteFile, request, left))
        return response.note

    def inspect(
        self,
        nid: int,
        *,
        zone: str | None = None,
        pfn: int | None = None,
        section: int | None = None,
        highmem: bool = False,
    ) -> dict[str, Any]:
        """Reads a structure by the kernel's field names: the node's pg_data_t, or one of those named.

        These are its zones, its pages, its sections of SPARSEMEM, and its high memory. A field that the model
        does not use is None. NotFound when the node has no such thing, InvalidRequest for more than one.
        """
        home, _ = codec.home(self.info, None, nid)
        request = codec.inspect_request(zone, pfn, section, highmem)
        response = self._ask(home.node, lambda node: node.Inspect, request)
        fields: dict[str, Any] = json.loads(response.json)
        return fields

    def slabinfo(self, node: int | None = None) -> tuple[t.SlabInfo, ...]:
        """Reads the slab caches in the order of creation, with what one node has of each, or all nodes."""
        nids = [info.node for info in self.info.nodes] if node is None else [node]
        found = []
        for nid in nids:
            home, _ = codec.home(self.info, None, nid)
            found.append(
                self._reach(
                    home.node,
                    lambda channel, left: call(
                        kmem_service_pb2_grpc.KmemServiceStub(channel).ListCaches,
                        kmem_service_pb2.ListCachesRequest(),
                        left,
                    ),
                )
            )
        return kernel_codec.slabinfo(found)

    def kmem_cache_create(
        self,
        name: str,
        size: int,
        *,
        align: int = 0,
        flags: str = "",
        ctor: str = "",
        usersize: int = 0,
    ) -> str:
        """Makes a slab cache on all nodes; returns its name, which is another one if it is shared (merged).

        `flags` are as "SLAB_HWCACHE_ALIGN|SLAB_ACCOUNT", `ctor` is what the file of that name shows.
        InvalidRequest: the name is taken, or no slab can hold an object.
        """
        request = machine_service_pb2.CreateCacheRequest(
            request_id=uuid4().hex,
            name=name,
            size=size,
            align=align,
            flags=flags,
            ctor=ctor,
            usersize=usersize,
        )
        return (self._look(lambda left: call(self._machine.CreateCache, request, left))).cache

    def kmem_cache_destroy(self, name: str) -> bool:
        """Says that a cache is needed no more; returns whether it is gone, as no other creator shares it.

        FailedPrecondition with the reason SLAB_BUG if it has objects: nothing is changed, and the kernel's
        lines are in ``metadata["report"]``. Unavailable: a node that may have some does not answer.
        """
        request = machine_service_pb2.DestroyCacheRequest(request_id=uuid4().hex, name=name)
        return not (self._look(lambda left: call(self._machine.DestroyCache, request, left))).shared

    def kmem_cache_shrink(self, cache: str) -> int:
        """Takes a cache's slabs from all CPUs and frees those that are empty; returns how many are left.

        It goes from node to node. NotFound: the machine has no such cache.
        """
        request = kmem_service_pb2.ShrinkCacheRequest(request_id=uuid4().hex, cache=cache)
        left_slabs = 0
        for info in self.info.nodes:
            response = self._reach(
                info.node,
                lambda channel, left: call(
                    kmem_service_pb2_grpc.KmemServiceStub(channel).ShrinkCache, request, left
                ),
            )
            left_slabs += response.slabs
        return left_slabs

    def change_memory_block(self, block: int, state: str) -> None:
        """Takes a memory block off-line or on-line. Block N is the 128 MiB from N × 128 MiB on.

        `state` is ``offline``, ``online``, ``online_kernel`` or ``online_movable``, as in sysfs. NotFound if
        there is no such block, InvalidRequest (EINVAL), FailedPrecondition (EBUSY).
        """
        request = node_service_pb2.ChangeMemoryBlockRequest(request_id=uuid4().hex, block=block, state=state)
        missing: NotFound | None = None
        for node in self.info.nodes:
            try:
                self._ask(node.node, lambda stub: stub.ChangeMemoryBlock, request)
            except NotFound as error:
                missing = error  # the block may be another node's
            else:
                return
        if missing:
            raise missing

    def read_file(self, path: str) -> str:
        """Reads a file of the machine's /proc or /sys (``/proc/zoneinfo``), as its kernel prints it.

        NotFound (ENOENT), FailedPrecondition (EISDIR, ENOTDIR), InvalidRequest (a path too long),
        Unavailable if a node does not answer for longer than `timeout`.
        """
        request = files_service_pb2.ReadFileRequest(path=path)
        response = self._look(lambda left: call(self._files.ReadFile, request, left))
        return response.data.decode()

    def pread(self, path: str, offset: int, length: int) -> bytes:
        """Reads a part of a file, at most 1 MiB; fewer bytes at its end.

        So ``/proc/PID/pagemap``, ``/proc/kpageflags``, ``kpagecount`` and ``kpagecgroup`` are read, in whole
        entries of 8 bytes (else InvalidRequest, EINVAL). Errors are as for :meth:`read_file`.
        """
        request = files_service_pb2.ReadFileRequest(path=path, offset=offset, length=length)
        return (self._look(lambda left: call(self._files.ReadFile, request, left))).data

    def list_dir(self, path: str = "/") -> tuple[DirEntry, ...]:
        """Lists a directory of the machine's /proc or /sys, by name. Errors are as for :meth:`read_file`."""
        request = files_service_pb2.ListDirRequest(path=path)
        return codec.dir_entries(self._look(lambda left: call(self._files.ListDir, request, left)))

    def read_tree(self, path: str = "/") -> tuple[TreeFile, ...]:
        """Reads every file and link at or below a path, all from one snapshot of each node."""
        request = files_service_pb2.ReadTreeRequest(path=path)
        return self._look(lambda left: _tree(self._files.ReadTree(request, timeout=left)))

    def write_file(self, path: str, text: str) -> str:
        """Writes a file that has effects: those of ``/proc/sys/vm``, and ``state`` of a memory block.

        Returns the note of :meth:`write_sysctl`. InvalidRequest (EINVAL, or more than 4096 bytes),
        FailedPrecondition (EACCES, EBUSY), NotFound (ENOENT).
        """
        response = call(self._files.WriteFile, codec.write_request(path, text), self._timeout)
        return response.note

    def check(self) -> dict[int, tuple[str, ...]]:
        """Checks the invariants of every node; returns nid → violations, for nodes that have any."""
        found = {}
        for node in self.info.nodes:
            request = node_service_pb2.CheckInvariantsRequest()
            response = self._ask(node.node, lambda stub: stub.CheckInvariants, request)
            if response.violations:
                found[node.node] = tuple(response.violations)
        return found

    def close(self) -> None:
        """Closes the channels. Sessions left open end with their leases; calls raise FailedPrecondition."""
        self._closed = True
        for channel in self._nodes.values():
            channel.close()
        self._channel.close()

    def _look(self, call: Callable[[float], _Response]) -> _Response:
        """Makes a call to the machine's own server that may be repeated: until it answers, or time is up."""
        visit = Visit(self._target, self._timeout)
        self._check_open()
        while True:
            try:
                return call(visit.left())
            except NumaError as error:
                wait = visit.wait(error)
            time.sleep(wait)

    def _ask(
        self,
        nid: int,
        method: Callable[[node_service_pb2_grpc.NodeServiceStub], Method[_Request, _Response]],
        request: _Request,
    ) -> _Response:
        """Calls a method of a node's NodeService."""
        return self._reach(
            nid,
            lambda channel, left: call(method(node_service_pb2_grpc.NodeServiceStub(channel)), request, left),
        )

    def _reach(
        self,
        nid: int,
        call: Callable[[grpc.Channel, float], _Response],
        timeout: float | None = None,
        session_of: int = 0,
    ) -> _Response:
        """Calls a node; if it cannot be reached and has another address by then, calls it there again.

        `call` gets the channel and the seconds that are left. A repeated request keeps its id, so it is
        carried out once. NotFound if `session_of` is a lineage of the node that has ended.
        """
        timeout = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        node = self._look_for(nid, timeout / 2) if nid in self._doubted else self.info.node(nid)
        while True:
            check_lineage(node, session_of)
            try:
                return call(self._node_channel(node), deadline - time.monotonic())
            except Unavailable as error:
                node = self._find(nid, Search(unreachable(error, node), node.address, deadline))
            except DeadlineExceeded as error:
                self._doubted.add(nid)
                raise no_answer(error, node, timeout) from error
            except NumaError as error:
                wait = wait_for_room(error, deadline)
                time.sleep(wait)

    def _look_for(self, nid: int, timeout: float) -> t.NodeInfo:
        """Reads a node's address from the machine; the known one if that does not answer within `timeout`."""
        self._doubted.discard(nid)
        with suppress(Unavailable, DeadlineExceeded):
            self.info = self._read(timeout)
        return self.info.node(nid)

    def _find(self, nid: int, search: Search) -> t.NodeInfo:
        node: t.NodeInfo | None = None
        while True:
            try:
                self.info = self._read(search.left())
                node = self.info.node(nid)
            except (Unavailable, DeadlineExceeded):
                node = None
            wait = search.wait(node)
            if wait is None:
                assert node is not None
                return node
            time.sleep(wait)

    def _check_open(self) -> None:
        if self._closed:
            raise FailedPrecondition(f"this client of {self._target} is closed: connect another one")

    def _node_channel(self, node: t.NodeInfo) -> grpc.Channel:
        self._check_open()
        if not node.address:
            raise Unavailable(f"node {node.node} restarts: no address yet")
        if node.address not in self._nodes:
            self._nodes[node.address] = blocking_channel(node.address)
        return self._nodes[node.address]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
