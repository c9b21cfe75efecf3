"""The blocking client. Safe to use from several threads.

Made from ``_aio.py`` by ``make sync``: change that one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from uuid import uuid4

import grpc

from numa_client import _codec as codec
from numa_client import _program_codec as program_codec
from numa_client import _types as t
from numa_client._background import Heartbeat, PageStream
from numa_client._channel import BEATS_PER_LEASE, DEFAULT_TIMEOUT, blocking_channel
from numa_client._errors import (
    DeadlineExceeded,
    FailedPrecondition,
    NotFound,
    NumaError,
    Unavailable,
)
from numa_client._explanation import Explained
from numa_client._files import DirEntry, TreeFile
from numa_client._gen.numa.v1 import (
    files_service_pb2,
    files_service_pb2_grpc,
    machine_service_pb2,
    machine_service_pb2_grpc,
    memory_service_pb2,
    memory_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    workload_service_pb2,
    workload_service_pb2_grpc,
)
from numa_client._policy import Policy
from numa_client._program import Program
from numa_client._program_result import ProgramProgress, ProgramResult
from numa_client._search import Search, Visit, check_incarnation, no_answer, unreachable, wait_for_room
from numa_client._status import from_rpc_error

if TYPE_CHECKING:
    Method = grpc.UnaryUnaryMultiCallable

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


def _call(method: Method[_Request, _Response], request: _Request, timeout: float) -> _Response:
    try:
        return method(request, timeout=timeout)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


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
        #: Nodes of which a call got no answer: the machine is asked where they are before the next one.
        self._doubted: set[int] = set()
        self._closed = False

    @classmethod
    def connect(cls, target: str, timeout: float = DEFAULT_TIMEOUT) -> Self:
        """Connects to the MachineService at ``host:port`` and reads the topology.

        Unavailable: nobody has answered there for `timeout` seconds.
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
            _call(self._machine.GetMachine, machine_service_pb2.GetMachineRequest(), timeout)
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
        """State of one node now; its digest only if asked for, since that reads every page."""
        home, _ = codec.home(self.info, None, nid)
        request = node_service_pb2.GetNodeRequest(with_digest=digest)
        return codec.node_state(self._ask(home.node, lambda node: node.GetNode, request))

    def write_sysctl(self, key: str, value: str) -> str:
        """Writes a sysctl (``vm.min_free_kbytes``) of the machine: of every node, also of one that is away.

        Returns one line if what would act on it is not modelled: it is kept and shown then, and that is all.
        Empty otherwise. NotFound (ENOENT), InvalidRequest (EINVAL).
        """
        request = codec.write_request(f"/proc/sys/{key.strip().replace('.', '/')}", value)
        response = self._look(lambda left: _call(self._files.WriteFile, request, left))
        return response.note

    def inspect(self, nid: int, *, zone: str | None = None, pfn: int | None = None) -> dict[str, Any]:
        """A structure of a node by the kernel's field names: its pg_data_t, or a zone or a page of it.

        NotFound when the node has no such zone or page, InvalidRequest for both at once.
        None: the field has no job in the model.
        """
        home, _ = codec.home(self.info, None, nid)
        request = codec.inspect_request(zone, pfn)
        response = self._ask(home.node, lambda node: node.Inspect, request)
        fields: dict[str, Any] = json.loads(response.json)
        return fields

    def change_memory_block(self, block: int, state: str) -> None:
        """Takes a memory block off-line or on-line: `block` is 128 MiB from block × 128 MiB on.

        `state` is ``offline``, ``online``, ``online_kernel`` or ``online_movable``, as in sysfs.
        NotFound without such a block, InvalidRequest (EINVAL), FailedPrecondition (EBUSY).
        """
        request = node_service_pb2.ChangeMemoryBlockRequest(request_id=uuid4().hex, block=block, state=state)
        missing: NotFound | None = None
        for node in self.info.nodes:
            try:
                self._ask(node.node, lambda stub: stub.ChangeMemoryBlock, request)
            except NotFound as error:
                missing = error  # it is another node's
            else:
                return
        if missing:
            raise missing

    def read_file(self, path: str) -> str:
        """Text of a file of the machine's /proc or /sys (``/proc/zoneinfo``), as its kernel prints it.

        NotFound (ENOENT), FailedPrecondition (EISDIR, ENOTDIR), InvalidRequest (a path too long),
        Unavailable if a node restarts, and for longer than `timeout`.
        """
        request = files_service_pb2.ReadFileRequest(path=path)
        response = self._look(lambda left: _call(self._files.ReadFile, request, left))
        return response.data.decode()

    def list_dir(self, path: str = "/") -> tuple[DirEntry, ...]:
        """What is in a directory of the machine's /proc or /sys, by name. Errors as of :meth:`read_file`."""
        request = files_service_pb2.ListDirRequest(path=path)
        return codec.dir_entries(self._look(lambda left: _call(self._files.ListDir, request, left)))

    def read_tree(self, path: str = "/") -> tuple[TreeFile, ...]:
        """Every file and link at or below a path, all of one moment of each node."""
        request = files_service_pb2.ReadTreeRequest(path=path)
        return self._look(lambda left: _tree(self._files.ReadTree(request, timeout=left)))

    def write_file(self, path: str, text: str) -> str:
        """Writes to a file, with a kernel's effects: ``/proc/sys/vm/*``, and ``state`` of a memory block.

        InvalidRequest (EINVAL, or more than 4096 bytes), FailedPrecondition (EACCES, EBUSY), NotFound.
        Returns what write_sysctl returns.
        """
        response = _call(self._files.WriteFile, codec.write_request(path, text), self._timeout)
        return response.note

    def check(self) -> dict[int, tuple[str, ...]]:
        """Recounts what must hold on every node; violations by node, empty when all is well."""
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
        """Asks the machine's own server what changes nothing: again until it answers, or says to wait."""
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
        """A call of a node's NodeService."""
        return self._reach(
            nid,
            lambda channel, left: _call(
                method(node_service_pb2_grpc.NodeServiceStub(channel)), request, left
            ),
        )

    def _reach(
        self,
        nid: int,
        call: Callable[[grpc.Channel, float], _Response],
        timeout: float | None = None,
        session_of: int = 0,
    ) -> _Response:
        """Calls a node where it is; again where it is then, if it cannot be reached and has moved.

        `call` is given the channel and the seconds that are left. The request keeps its id: it is carried
        out once. NotFound if `session_of` is an incarnation of the node that has ended.
        """
        timeout = self._timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        node = self._look_for(nid, timeout / 2) if nid in self._doubted else self.info.node(nid)
        while True:
            check_incarnation(node, session_of)
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
        """A node as the machine knows it now; if it does not say in `timeout` seconds, as it was known."""
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


class Session:
    """Holds pages on behalf of the caller. A background thread renews the lease until :meth:`close`.

    Made by :meth:`Machine.session`. Once the lease ran out (process stopped, network gone), every call
    raises NotFound: the pages are free again.
    """

    def __init__(self, machine: Machine, nid: int, cpu: int, lease_seconds: float, name: str) -> None:
        self._machine = machine
        self._nid = nid
        #: Of the node that opened the session; 0 before.
        self._incarnation = 0
        self._channel: grpc.Channel | None = None
        self._ids = codec.RequestIds()
        self._request = memory_service_pb2.OpenSessionRequest(
            client_name=name, lease_seconds=lease_seconds, request_id=next(self._ids)
        )
        self._info: t.SessionInfo | None = None
        self._heartbeat: Heartbeat | None = None
        #: CPU that this session plays unless a call says otherwise.
        self.cpu = cpu

    @property
    def info(self) -> t.SessionInfo:
        """What the service granted. RuntimeError before :meth:`open`."""
        if self._info is None:
            raise RuntimeError("the session is not open: use it as a context manager, or call open()")
        return self._info

    def open(self) -> t.SessionInfo:
        """Opens the session and starts the heartbeat. FailedPrecondition on a node without CPUs."""
        if self._info is not None:
            raise RuntimeError("a session is opened once: ask the machine for another one")
        response = self._ask(lambda memory: memory.OpenSession, self._request)
        self._info = codec.session_info(response)
        self._incarnation = response.incarnation
        self._heartbeat = Heartbeat(self._beat, self._info.lease_seconds / BEATS_PER_LEASE)
        return self._info

    def alloc(
        self,
        order: int = 0,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        policy: Policy | None = None,
        partial: bool = False,
    ) -> t.Allocation:
        """Takes `count` blocks of 2^order pages; fewer only if `partial`, else OutOfMemory."""
        request = self._alloc_request(order, count, gfp, cpu, policy, partial)
        return codec.allocation(self._ask(lambda memory: memory.AllocPages, request), order)

    def explain(
        self,
        order: int = 0,
        count: int = 1,
        gfp: str = "GFP_KERNEL",
        *,
        cpu: int | None = None,
        policy: Policy | None = None,
    ) -> Explained:
        """Allocates like :meth:`alloc`, and tells why there. The blocks are really taken: free them.

        When they are not to be had, there are none and the explanation has the failure: no OutOfMemory.
        """
        request = codec.alloc_request(
            self.info,
            next(self._ids),
            order=order,
            count=count,
            gfp=gfp,
            cpu=self.cpu if cpu is None else cpu,
            policy=policy,
            explain=True,
        )
        return codec.explained(self._ask(lambda memory: memory.AllocPages, request), order)

    def free(self, blocks: t.Blocks, *, cpu: int | None = None) -> t.Freed:
        """Gives blocks back: an allocation, or a part of one (:meth:`Blocks.split`, :meth:`Blocks.on`).

        All or nothing: NotFound or FailedPrecondition when one of them is not this session's.
        """
        return codec.freed(self._ask(lambda memory: memory.FreePages, self._free_request(blocks, cpu)))

    def stream(self, window: int = 16) -> PageStream:
        """A pipeline for many small calls; at most `window` of them are unanswered at one time."""
        return PageStream(self, window)

    def map_region(
        self, kind: t.RegionKind = "anon", nr_pages: int = 1, policy: Policy | None = None
    ) -> Region:
        """Makes a region of `nr_pages` pageable pages, anonymous or of a file. Takes no page yet."""
        request = codec.map_request(self.info, next(self._ids), kind=kind, nr_pages=nr_pages, policy=policy)
        response = self._ask(lambda memory: memory.MapRegion, request)
        return Region(self, response.region, nr_pages)

    def run_program(
        self, program: Program | str | Path, *, cpu: int | None = None, timeout: float | None = None
    ) -> Generator[ProgramProgress | ProgramResult, None, None]:
        """Runs a workload program next to the node: progress a few times a second, then its ProgramResult.

        It starts when it is asked for the first of them.
        `program`: one of the library by name, a TOML file by its path, or a Program. Its limits end it, or
        `timeout` seconds; so does to stop reading, or to close this iterator. What it held is then free.
        A node that runs too many is asked again. OutOfMemory: it still does, or the program came to a limit,
        or stopped at a failure.
        """
        request = program_codec.run_request(
            self.info, next(self._ids), program, self.cpu if cpu is None else cpu
        )
        return self._run(request, timeout)

    def _run(
        self, request: workload_service_pb2.RunProgramRequest, timeout: float | None
    ) -> Generator[ProgramProgress | ProgramResult, None, None]:
        """What a program streams; begun again if it is refused until a time that comes soon enough."""
        patience = self._machine._timeout if timeout is None else min(timeout, self._machine._timeout)
        deadline = time.monotonic() + patience
        while True:
            self._go_home()
            call, begun = self._workload.RunProgram(request, timeout=timeout), False
            try:
                for message in call:
                    begun = True
                    yield program_codec.report(message)
            except grpc.RpcError as error:
                self._doubt_home()
                wait = wait_for_room(from_rpc_error(error), -math.inf if begun else deadline)
            else:
                return
            finally:
                call.cancel()
            time.sleep(wait)

    def close(self) -> int:
        """Ends the session; returns the pages this freed on all nodes. 0 if it had ended already."""
        if self._info is None or self._heartbeat is None:
            return 0
        heartbeat, self._heartbeat = self._heartbeat, None
        heartbeat.stop()
        request = memory_service_pb2.CloseSessionRequest(
            session=self._info.session, session_token=self._info.token, request_id=next(self._ids)
        )
        try:
            response = self._ask(lambda memory: memory.CloseSession, request)
        except NotFound:  # the lease ran out first: what close() is for is done
            return 0
        return response.freed_pages

    def _ask(
        self,
        method: Callable[[memory_service_pb2_grpc.MemoryServiceStub], Method[_Request, _Response]],
        request: _Request,
        at_most: float = math.inf,
    ) -> _Response:
        """A call of the home node, wherever it is, `at_most` seconds long."""
        return self._machine._reach(
            self._nid,
            lambda channel, left: _call(method(self._at(channel)), request, left),
            min(self._machine._timeout, at_most),
            self._incarnation,
        )

    def _go_home(self) -> memory_service_pb2_grpc.MemoryServiceStub:
        """The home node's services where it is now, for what is sent only once: a stream, a program."""

        def arrive(channel: grpc.Channel, _: float) -> memory_service_pb2_grpc.MemoryServiceStub:
            return self._at(channel)

        return self._machine._reach(self._nid, arrive, session_of=self._incarnation)

    def _doubt_home(self) -> None:
        """A call of the home node broke off: the machine is asked where it is before the next one."""
        self._machine._doubted.add(self._nid)

    def _at(self, channel: grpc.Channel) -> memory_service_pb2_grpc.MemoryServiceStub:
        """The home node's services over a channel."""
        if self._channel is not channel:
            self._memory = memory_service_pb2_grpc.MemoryServiceStub(channel)
            self._workload = workload_service_pb2_grpc.WorkloadServiceStub(channel)
            self._channel = channel
        return self._memory

    def _alloc_request(
        self, order: int, count: int, gfp: str, cpu: int | None, policy: Policy | None, partial: bool
    ) -> memory_service_pb2.AllocPagesRequest:
        return codec.alloc_request(
            self.info,
            next(self._ids),
            order=order,
            count=count,
            gfp=gfp,
            cpu=self.cpu if cpu is None else cpu,
            policy=policy,
            partial=partial,
        )

    def _free_request(self, blocks: t.Blocks, cpu: int | None) -> memory_service_pb2.FreePagesRequest:
        cpu = self.cpu if cpu is None else cpu
        return codec.free_request(self.info, next(self._ids), blocks, cpu)

    def _touch(
        self, region: int, first: int, count: int, write: bool, cpu: int | None
    ) -> memory_service_pb2.TouchRegionResponse:
        request = codec.touch_request(
            self.info,
            next(self._ids),
            region,
            first=first,
            count=count,
            write=write,
            cpu=self.cpu if cpu is None else cpu,
        )
        return self._ask(lambda memory: memory.TouchRegion, request)

    def _unmap(self, region: int) -> int:
        request = memory_service_pb2.UnmapRegionRequest(
            session=self.info.session,
            session_token=self.info.token,
            request_id=next(self._ids),
            region=region,
        )
        response = self._ask(lambda memory: memory.UnmapRegion, request)
        return response.freed_pages

    def _beat(self, seconds: float) -> float:
        """Renews the lease within `seconds`; returns those until it is to be renewed again, 0 for never."""
        request = memory_service_pb2.RenewSessionRequest(
            session=self.info.session, session_token=self.info.token
        )
        try:
            response = self._ask(lambda memory: memory.RenewSession, request, seconds)
        except (NotFound, FailedPrecondition):
            return 0  # the session is gone, or the machine closed
        except NumaError:
            return seconds  # the lease lasts for more beats: the next one may get through
        return response.lease_seconds / BEATS_PER_LEASE

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(NumaError):  # must not hide the error that ends the block
                self.close()


class Region:
    """Pageable memory of a session. Made by :meth:`Session.map_region`."""

    def __init__(self, session: Session, region: int, nr_pages: int) -> None:
        self._session = session
        #: Number of the region in its session.
        self.region = region
        self.nr_pages = nr_pages

    def touch(self, first: int, count: int = 1, write: bool = False, *, cpu: int | None = None) -> t.Touch:
        """Accesses `count` pages from page `first` on. OutOfMemory when a fault finds no page."""
        return codec.touch(self._session._touch(self.region, first, count, write, cpu))

    def unmap(self) -> int:
        """Ends the region; returns the pages this freed."""
        return self._session._unmap(self.region)
