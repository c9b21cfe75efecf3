"""The cost of explanations: requests without and with one, beside a slow path without code for them."""

from __future__ import annotations

import ast
import inspect
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from table import Row

from numa_service.machine.presets import load_preset
from numa_service.mm.gfp import GFP_KERNEL
from numa_service.node import ops, page_alloc, zonelist_alloc
from numa_service.node.free_pages import free_pages
from numa_service.node.mempolicy import Policy
from numa_service.node.node import Node
from numa_service.node.prepare import AllocRequest

_BLOCKS = 32
_REQUESTS = 300
_ROUNDS = 21


class _WithoutRecorder(ast.NodeTransformer):
    """Removes the code for explanations: every `if recorder` and `if walk_step`, with its body."""

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        test = node.test
        name = test.id if isinstance(test, ast.Name) else getattr(test, "attr", "")
        return node.orelse if name in ("recorder", "walk_step") else node

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        made = node.body
        is_recorder = isinstance(made, ast.Call) and getattr(made.func, "id", "") == "Recorder"
        return ast.copy_location(ast.Constant(None), node) if is_recorder else node


def never_built_in() -> ModuleType:
    """node/page_alloc.py, on node/zonelist_alloc.py, as they would be without explanations."""
    module = _without_recorder(page_alloc)
    module.__dict__["__alloc_pages"] = _without_recorder(zonelist_alloc).__dict__["__alloc_pages"]
    return module


def _without_recorder(original: ModuleType) -> ModuleType:
    tree = _WithoutRecorder().visit(ast.parse(inspect.getsource(original)))
    module = ModuleType(original.__name__)
    exec(compile(ast.fix_missing_locations(tree), "<without>", "exec"), module.__dict__)
    return module


def _requests(node: Node, session: int, module: Any, explain: bool) -> Callable[[], float]:
    request = AllocRequest(session, GFP_KERNEL, 0, _BLOCKS, 0, Policy(), explain=explain)

    def run() -> float:
        start = time.thread_time()  # CPU time, which other load of the host does not change
        for _ in range(_REQUESTS):
            try:
                next(module.alloc_pages(node, request))
            except StopIteration as done:
                next(free_pages(node, session, 0, done.value.pages, 0), None)
        return (time.thread_time() - start) / _REQUESTS * 1e6

    return run


def rows() -> list[Row]:
    """Every row of this part."""
    node = Node.boot(load_preset("uma"), 0)
    session = node.apply(ops.OpenSession("bench", 10**18, 0))
    runs = {
        "off": _requests(node, session, page_alloc, False),
        "on": _requests(node, session, page_alloc, True),
        "without": _requests(node, session, never_built_in(), False),
    }
    took: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_ROUNDS):
        for name, run in runs.items():
            found = run()
            if turn:  # the first round warms up
                took[name].append(found)
    off, on, without = (min(took[name]) for name in ("off", "on", "without"))
    return [
        Row(
            "explain_off", off, "µs", "the same without explanations built in", without, 1.02, at_least=False
        ),
        Row("explain_on", on, "µs", "the same without explanations built in", without, 3, at_least=False),
    ]


if __name__ == "__main__":
    from table import show

    show(rows())
