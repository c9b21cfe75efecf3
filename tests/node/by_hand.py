"""The third shell, beside gRPC and the simulation: it drives nodes call by call, without clock or network."""

from __future__ import annotations

from typing import Any, TypeVar

from numa_service.machine.boot import start_kernel
from numa_service.machine.spec import MachineSpec
from numa_service.node.ask import Park, Steps, check_asked
from numa_service.node.daemons import run_kswapd
from numa_service.node.inbox import Inbox, Packed
from numa_service.node.node import Node
from numa_service.node.ops.op import Op, Tagged
from numa_service.node.request import Request

T = TypeVar("T")


def _keep_nothing(asker: int, reply: Any) -> Packed:
    raise AssertionError("questions are asked once here")


class ByHand:
    """Every node of a machine. Questions between nodes are answered at once; kswapd runs after a request."""

    def __init__(self, spec: MachineSpec) -> None:
        machine = start_kernel(spec)
        self.nodes = {nid: Node(machine.of_node(nid), nid) for nid in machine.pgdats}
        self.asked: list[tuple[int, str]] = []

    def call(self, nid: int, steps: Steps[T]) -> T:
        """Run a request, then every kswapd that it woke; return the request's result."""
        answer: Any = None
        try:
            while True:
                ask = steps.send(answer)
                if isinstance(ask, Park):
                    assert ask.woken, "nobody would wake it here"
                    answer = None
                    continue
                self.asked.append((ask.nid, type(ask.op).__name__))
                check_asked(self.nodes[ask.nid], ask.op)
                answer = self._answer(self.nodes[ask.nid], ask.op)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        finally:
            self.run()

    def _answer(self, node: Node, asked: Tagged[Any]) -> Any:
        if isinstance(asked, Request):
            return self.call(node.nid, asked.run(Inbox(node, _keep_nothing)))
        assert isinstance(asked, Op)
        return node.apply(asked)

    def run(self) -> None:
        """Run every kswapd that has been woken until it sleeps."""
        for node in self.nodes.values():
            run_kswapd(node)
