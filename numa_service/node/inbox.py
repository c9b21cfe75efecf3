"""Requests to a node, of clients and of other nodes: each is carried out once, in the order that they need.

Nothing here waits or sends. A request that takes steps is a generator; who drives the node sends its
questions, puts the answers in with :meth:`Inbox.advance`, and goes on with a parked one when it is told to.
First replies are state of the node; what is under way is not: it ends with the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import GeneratorType
from typing import Any, NamedTuple, TypeVar, cast

from numa_service.node import ops
from numa_service.node.ask import Ask, Park, Steps, through_outbox
from numa_service.node.errors import InvalidRequest, NodeError, NotFound
from numa_service.node.first_replies import FirstReply, Key
from numa_service.node.node import Node
from numa_service.node.ops.protocol import MAX_REQUEST_ID

T = TypeVar("T")


class Call(NamedTuple):
    """One request, as far as the inbox looks at it."""

    #: A session, 0 before there is one, or a node: see ``first_replies.node_asker``.
    asker: int
    request_id: str
    #: Tells it from another request under the same id.
    digest: int
    #: What it gets is kept for a repeat whatever room there is: it gives back, and its reply is small.
    gives_back: bool = False

    @property
    def key(self) -> Key:
        """What its first reply is kept under."""
        return self.asker, self.request_id


class Packed(NamedTuple):
    """A reply as it is kept."""

    kind: str
    data: bytes
    #: [start, end) of lists of page numbers in it that may be kept short.
    lists: tuple[tuple[int, int], ...] = ()


class Running:
    """A request under way."""

    def __init__(self, call: Call, steps: Steps[Any] | None) -> None:
        self.call = call
        self._steps = steps
        #: What it waits for; None when it is over, or is driven by somebody else.
        self.effect: Ask[Any] | Park | None = None
        self.over = False
        self._reply: Any = None
        self._error: BaseException | None = None
        self._waiting: list[Callable[[], None]] = []

    def when_over(self, then: Callable[[], None]) -> None:
        """Call `then` when it is over; at once if it is."""
        if self.over:
            then()
        else:
            self._waiting.append(then)

    @property
    def reply(self) -> Any:
        """Of one that is over; raises the error that it ended with."""
        assert self.over
        if self._error is not None:
            raise self._error
        return self._reply

    def end(self, reply: Any, error: BaseException | None) -> None:
        """Tell everybody who waits."""
        self.over, self.effect, self._reply, self._error = True, None, reply, error
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()


class Inbox:
    """The requests of one node."""

    def __init__(self, node: Node, pack: Callable[[int, Any], Packed]) -> None:
        """`pack` makes of an asker's reply what is kept of it."""
        self.node = node
        self._pack = pack
        self.running: dict[Key, Running] = {}
        self._ending: set[int] = set()
        #: Who waits for a region, first come first served; one that is locked is in here.
        self._regions: dict[int, deque[Park]] = {}

    # once

    def once(self, call: Call, begin: Callable[[], T | Steps[T]]) -> T | FirstReply | Running:
        """Carry out a request, unless it was, or is being, carried out.

        `begin` does what takes no steps, or returns the steps. Of one that was carried out its first reply,
        of one that takes steps how it runs: a new one stands at its first `effect`. A failed attempt is not
        remembered: the same id may try again. InvalidRequest for an id that is missing, or was used for
        something else; NotFound when the session is being closed; TooMany when its reply could not be kept.
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
        """What an earlier request of that id led, or leads, to. InvalidRequest when that was another one."""
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
        """Note a request as under way: with `steps`, or driven by somebody else to its :meth:`end`."""
        if steps is None:
            self._check_may_begin(call)
        running = self.running[call.key] = Running(call, steps)
        return running

    def advance(self, running: Running, answer: Any = None, error: NodeError | None = None) -> None:
        """Go on with an answer, or with the error that came instead, to the next effect or the end."""
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
        """Remember the reply, unless it failed, and tell everybody who waits for it."""
        del self.running[running.call.key]
        if error is None:
            self._remember(running.call, reply)
        running.end(reply, error)

    def abandon(self, running: Running, error: NodeError) -> None:
        """End a request that nobody drives any more; what it holds locked is free again."""
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
        """Raise NotFound for a session that does not live, or is about to end."""
        self.node.session(session)
        if session in self._ending:
            raise NotFound("session", str(session), "is being closed")

    def is_ending(self, session: int) -> bool:
        """Whether a session is being closed."""
        return session in self._ending

    def end_session(self, session: int, close: Steps[T], mine: Key | None = None) -> Steps[T]:
        """Run `close` when nothing that the session asked for is under way any more; nothing new is let in.

        NotFound for one that is gone or already ending. `mine` is the request that this is part of.
        """
        self.check_session(session)
        self._ending.add(session)
        try:
            for running in [r for r in self.running.values() if r.call.asker == session]:
                if running.call.key != mine:
                    park = Park()
                    running.when_over(park.wake)
                    yield from park.wait()
            return (yield from close)
        finally:
            self._ending.discard(session)

    # regions

    def locked(self, region: int, steps: Steps[T]) -> Steps[T]:
        """Run `steps` with a region to itself, as under its mmap_lock: each waits for other nodes."""
        waiting = self._regions.get(region)
        if waiting is None:
            self._regions[region] = deque()
        else:
            park = Park()
            waiting.append(park)
            try:
                yield from park.wait()
            except BaseException:
                if park in waiting:
                    waiting.remove(park)
                else:  # it had been given the lock already
                    self._unlock(region)
                raise
        try:
            return (yield from steps)
        finally:
            self._unlock(region)

    def locked_regions(self) -> list[int]:
        """Regions that somebody has to itself, ascending."""
        return sorted(self._regions)

    def _unlock(self, region: int) -> None:
        waiting = self._regions[region]
        if waiting:
            waiting.popleft().wake()
        else:
            del self._regions[region]


def check_request_id(request_id: str) -> None:
    """InvalidRequest unless it is 1 to MAX_REQUEST_ID characters."""
    if not request_id:
        raise InvalidRequest("request_id", "a request that changes something needs one")
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidRequest("request_id", f"{len(request_id)} characters: at most {MAX_REQUEST_ID}")
