"""Requests to a node, from clients and from other nodes: each is carried out once, however often it arrives.

The inbox also orders requests that must not overlap: those on one region, and the end of a session after the
session's other requests. It neither waits nor sends. A request that takes several steps is a generator; the
shell that drives the node sends its questions, passes the answers to :meth:`Inbox.advance`, and continues a
parked request when its :class:`Park` is woken. First replies are state of the node. Requests under way are
not: they end with the process.
"""

from __future__ import annotations

from collections.abc import Callable
from types import GeneratorType
from typing import Any, NamedTuple, TypeVar, cast

from numa_service.node import ops
from numa_service.node.ask import Ask, Park, Steps, through_outbox
from numa_service.node.errors import InvalidRequest, NodeError, NotFound
from numa_service.node.first_replies import FirstReply, Key
from numa_service.node.locks import locked
from numa_service.node.node import Node
from numa_service.node.ops.protocol import MAX_REQUEST_ID

T = TypeVar("T")


class Call(NamedTuple):
    """One request, as far as the inbox looks at it."""

    #: The session's id, 0 before there is one, or a node (``first_replies.node_asker``).
    asker: int
    request_id: str
    #: Digest of the request: a different request under the same id is refused.
    digest: int
    #: The request frees something, and its reply is small: it is accepted even if first replies are crowded.
    gives_back: bool = False

    @property
    def key(self) -> Key:
        """The key of its first reply."""
        return self.asker, self.request_id


class Packed(NamedTuple):
    """A serialised reply, to be kept as a first reply."""

    kind: str
    data: bytes
    #: [start, end) of the lists of page numbers in `data` that may be stored in short form (``folded.py``).
    lists: tuple[tuple[int, int], ...] = ()


class Running:
    """A request under way."""

    def __init__(self, call: Call, steps: Steps[Any] | None) -> None:
        self.call = call
        self._steps = steps
        #: What the request waits for, to be carried out by the shell. None when the request is over, when the
        #: shell has taken the effect, or when the request has no steps.
        self.effect: Ask[Any] | Park | None = None
        self.over = False
        self._reply: Any = None
        self._error: BaseException | None = None
        self._waiting: list[Callable[[], None]] = []

    def when_over(self, then: Callable[[], None]) -> None:
        """Call `then` when the request is over, or now if it is over already."""
        if self.over:
            then()
        else:
            self._waiting.append(then)

    @property
    def reply(self) -> Any:
        """The reply of a request that is over; raises the error that it ended with."""
        assert self.over
        if self._error is not None:
            raise self._error
        return self._reply

    def end(self, reply: Any, error: BaseException | None) -> None:
        """Note how the request ended and call everything that waits for its end."""
        self.over, self.effect, self._reply, self._error = True, None, reply, error
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()


class Inbox:
    """The requests of one node."""

    def __init__(self, node: Node, pack: Callable[[int, Any], Packed]) -> None:
        """Make an empty inbox. `pack` serialises a reply to an asker."""
        self.node = node
        self._pack = pack
        self.running: dict[Key, Running] = {}
        self._ending: set[int] = set()

    # carrying out each request once

    def once(self, call: Call, begin: Callable[[], T | Steps[T]]) -> T | FirstReply | Running:
        """Carry out a request, unless it has been carried out or is under way.

        `begin` carries out a request that takes no steps and returns its reply, or returns the steps. The
        result is the reply; the FirstReply of a request that was carried out before; or, for a request that
        takes steps, its Running. A new one stands at its first `effect`, which the shell has to carry out.

        A failed attempt is not remembered: the same id may be tried again. InvalidRequest if the id is
        missing or was used for a different request; NotFound if the session is being closed; TooMany if there
        is no room for the reply. What `begin` and the steps raise before they yield is raised, too.
        """
        known = self.known(call)
        if known is not None:
            return known
        self._check_may_begin(call)
        begun = begin()
        if not isinstance(begun, GeneratorType):
            self._remember(call, begun)
            return cast("T", begun)
        running = self.start(call, through_outbox(self.node, cast("Steps[T]", begun)))
        self.advance(running)
        return cast("T", running.reply) if running.over else running

    def known(self, call: Call) -> FirstReply | Running | None:
        """Return the first reply to an earlier request with the same id, or that request if it is under way.

        None if there is neither. InvalidRequest if the earlier request was a different one.
        """
        key = call.asker, call.request_id
        first = self.node.replies.get(key)
        if first is not None:
            if first.digest != call.digest:
                raise InvalidRequest("request_id", "was used for a different request")
            return first
        running = self.running.get(key)
        if running is not None and running.call.digest != call.digest:
            raise InvalidRequest("request_id", "was used for a different request")
        return running

    def _check_may_begin(self, call: Call) -> None:
        if not 0 < len(call.request_id) <= MAX_REQUEST_ID:
            check_request_id(call.request_id)
        if call.asker in self._ending:
            self.check_session(call.asker)
        if self.node.replies.crowded and not call.gives_back:
            self.node.apply(ops.ForgetReplies(self.node.clock()))
            if self.node.replies.crowded:
                self.node.replies.check_room(call.asker)

    def start(self, call: Call, steps: Steps[Any] | None = None) -> Running:
        """Note a request as under way. Without `steps`, the caller carries it out and calls :meth:`end`."""
        if steps is None:
            self._check_may_begin(call)
        running = self.running[call.key] = Running(call, steps)
        return running

    def advance(self, running: Running, answer: Any = None, error: Exception | None = None) -> None:
        """Resume a request with the answer to its effect, or the error that came instead.

        It then stands at its next `effect`, or is over. An error that is no NodeError is raised here, too.
        """
        steps = running._steps
        assert steps is not None
        running.effect = None
        try:
            running.effect = steps.throw(error) if error else steps.send(answer)
        except StopIteration as stop:
            self.end(running, stop.value)
        except BaseException as failed:
            self.end(running, None, failed)
            if not isinstance(failed, NodeError):
                raise

    def end(self, running: Running, reply: Any, error: BaseException | None = None) -> None:
        """End a request: keep its reply as a first reply unless it failed, and tell whoever waits for it."""
        del self.running[running.call.key]
        if error is None:
            self._remember(running.call, reply)
        running.end(reply, error)

    def abandon(self, running: Running, error: NodeError) -> None:
        """End a request that is not driven any more with an error; the locks that it holds are released."""
        if not running.over:
            if running._steps is not None:
                running._steps.close()
            self.end(running, None, error)

    def _remember(self, call: Call, reply: Any) -> None:
        kind, data, lists = self._pack(call.asker, reply)
        self.node.apply(
            ops.Remember(call.asker, call.request_id, call.digest, kind, data, self.node.clock(), lists)
        )

    # sessions

    def check_session(self, session: int) -> None:
        """Raise NotFound for a session that does not exist or is being closed."""
        self.node.session(session)
        if session in self._ending:
            raise NotFound("session", str(session), "is being closed")

    def is_ending(self, session: int) -> bool:
        """Whether a session is being closed."""
        return session in self._ending

    def end_session(self, session: int, close: Steps[T], mine: Key | None = None) -> Steps[T]:
        """Wait until no request of a session is under way, then run `close`; return its result.

        New requests of the session are refused from now on. `mine` is the key of the request that calls this,
        which is not waited for. NotFound for a session that does not exist or is being closed already.
        """
        self.check_session(session)
        self._ending.add(session)
        self.node.pkmap_wait.wake(session)
        self.node.page_wait.wake_session(session)
        try:
            for running in [r for r in self.running.values() if r.call.asker == session]:
                if running.call.key != mine:
                    park = Park()
                    running.when_over(park.wake)
                    yield from park.wait()
            return (yield from close)
        finally:
            self._ending.discard(session)

    # locks

    def locked(self, lock: int | str, steps: Steps[T]) -> Steps[T]:
        """Run `steps` while holding the lock of a region, or another by its name, and return their result.

        That of a region is a mutex, as if mmap_lock were always taken for writing: the steps wait for other
        nodes, and two faults on one page must not both allocate.
        """
        return locked(self.node, lock, steps)

    def locked_regions(self) -> list[int]:
        """Return the ids of the regions that are locked, ascending."""
        return sorted(lock for lock in self.node.locks if isinstance(lock, int))


def check_request_id(request_id: str) -> None:
    """Raise InvalidRequest unless the id has 1 to MAX_REQUEST_ID characters."""
    if not request_id:
        raise InvalidRequest("request_id", "a request that changes something needs one")
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidRequest("request_id", f"{len(request_id)} characters: at most {MAX_REQUEST_ID}")
