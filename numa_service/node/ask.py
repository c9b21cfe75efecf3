"""Effects: what a generator that involves several nodes yields, for its driver to carry out.

An :class:`Ask` is answered by another node; a :class:`Park` waits for something on this node.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from numa_service.node.errors import NeverSent, NodeError, PeerUnavailable
from numa_service.node.node import Node
from numa_service.node.ops.op import Op, Tagged, encode
from numa_service.node.ops.protocol import NumberQuestion, Owe
from numa_service.node.state import NodeState

R = TypeVar("R")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask(Generic[R]):
    """Asks another node to apply an op or to run a request; the driver sends the result into the generator.

    `request_id` names the question: a node that gets it twice carries it out once and repeats its answer.
    """

    nid: int
    op: Tagged[R]
    request_id: str


class Park:
    """Waits until something happens on this node: the driver resumes the generator when it is woken."""

    def __init__(self) -> None:
        self.woken = False
        self._then: Callable[[], None] | None = None

    def wake(self) -> None:
        """Note that it has happened, and call what :meth:`when_woken` was given."""
        self.woken = True
        if self._then:
            self._then()

    def when_woken(self, then: Callable[[], None]) -> None:
        """Call `then` when it happens, or now if it has happened already."""
        if self.woken:
            then()
        else:
            self._then = then

    def wait(self) -> Steps[None]:
        """Yield this effect, unless it has been woken already."""
        if not self.woken:
            yield self


#: A generator that may involve several nodes: it yields effects and returns a T.
Steps = Generator[Ask[Any] | Park, Any, T]


def cond_resched() -> Steps[None]:
    """Let other requests of this node go first; for a request that does much without asking anybody."""
    park = Park()
    park.wake()
    yield park


def on(node: Node, nid: int, op: Op[R]) -> Steps[R]:
    """Apply an op on node `nid`, at once if that is this node, else by asking; return its result.

    PeerUnavailable if the other node does not answer.
    """
    return node.apply(op) if nid == node.nid else (yield from ask(node, nid, op))


def tell(node: Node, nid: int, op: Op[R]) -> Steps[R | None]:
    """Apply an op as :func:`on` does; return None instead of raising PeerUnavailable."""
    with contextlib.suppress(PeerUnavailable):
        return (yield from on(node, nid, op))
    return None


def ask(node: Node, nid: int, asked: Tagged[R]) -> Steps[R]:
    """Ask another node to apply an op or run a request, under a new request id; return the result."""
    number = node.apply(NumberQuestion())
    answer: R = yield Ask(nid, asked, f"{node.nid}.{node.epoch}.{number}")
    return answer


def through_outbox(node: Node, steps: Steps[T]) -> Steps[T]:
    """Run `steps` with respect to unanswered questions (``outbox.py``); return their result.

    A node that owes an answer is not asked, nor is one that has not answered an earlier question of these
    steps: NeverSent is thrown into them instead. A question that got no answer and must not be lost
    (:meth:`Tagged.owed`) is put into the outbox.
    """
    away: set[int] = set()
    try:
        effect = next(steps)
        while True:
            try:
                if isinstance(effect, Ask) and (effect.nid in away or node.outbox.is_away(effect.nid)):
                    raise NeverSent(effect.nid, "it owes answers to earlier questions")
                answer = yield effect
            except NodeError as error:
                if isinstance(error, PeerUnavailable) and isinstance(effect, Ask):
                    away.add(effect.nid)
                    if effect.op.owed(heard=not isinstance(error, NeverSent)):
                        owe(node, effect)
                effect = steps.throw(error)
            else:
                effect = steps.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        steps.close()


def owe(node: Node, ask: Ask[Any]) -> None:
    """Put a question that got no answer into the outbox, to be repeated."""
    owner = getattr(ask.op, "owner", None)
    node.apply(Owe(ask.nid, ask.request_id, encode(ask.op), owner, node.clock()))


def check_asked(node: NodeState, op: Tagged[Any]) -> None:
    """Check an op that another node asks for.

    InvalidRequest for invalid fields, TypeError for an op that other nodes may not ask for.
    """
    if not op.asked:
        raise TypeError(f"not a question between nodes: {type(op).__name__}")
    op.check(node)
