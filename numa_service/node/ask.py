"""Effects: what a generator that spans nodes yields, for whoever drives it to carry out."""

from __future__ import annotations

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
    """Have an op applied, or a request run, on another node, and send back what it leads to.

    `request_id` is unique for this question: a node asked twice gives the first answer.
    """

    nid: int
    op: Tagged[R]
    request_id: str


class Park:
    """Wait until something happens on this node: who drives the generator goes on when it is woken."""

    def __init__(self) -> None:
        self.woken = False
        self._then: Callable[[], None] | None = None

    def wake(self) -> None:
        """It has happened."""
        self.woken = True
        if self._then:
            self._then()

    def when_woken(self, then: Callable[[], None]) -> None:
        """Call `then` when it has happened; at once if it has."""
        if self.woken:
            then()
        else:
            self._then = then

    def wait(self) -> Steps[None]:
        """Yield this until it is woken; nothing if it has been."""
        if not self.woken:
            yield self


#: A step across nodes: yields effects, returns its result.
Steps = Generator[Ask[Any] | Park, Any, T]


def on(node: Node, nid: int, op: Op[R]) -> Steps[R]:
    """An op where it belongs: here at once, elsewhere by asking."""
    return node.apply(op) if nid == node.nid else (yield from ask(node, nid, op))


def ask(node: Node, nid: int, asked: Tagged[R]) -> Steps[R]:
    """What another node is asked to do, under a request id of its own."""
    number = node.apply(NumberQuestion())
    answer: R = yield Ask(nid, asked, f"{node.nid}.{node.epoch}.{number}")
    return answer


def through_outbox(node: Node, steps: Steps[T]) -> Steps[T]:
    """The same steps, minding what is owed: a node that owes answers is not asked, and counts as away.

    A node that has not answered once is not asked again by these steps. Of what was not answered, what must
    not be lost is owed from then on: see ``outbox.py``.
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
    """Keep a question without an answer for later."""
    owner = getattr(ask.op, "owner", None)
    node.apply(Owe(ask.nid, ask.request_id, encode(ask.op), owner, node.clock()))


def check_asked(node: NodeState, op: Tagged[Any]) -> None:
    """Check what another node asks for; InvalidRequest, or TypeError for an op that none may ask for."""
    if not op.asked:
        raise TypeError(f"not a question between nodes: {type(op).__name__}")
    op.check(node)
