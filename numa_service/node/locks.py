"""Locks of one node's requests: on regions, on address spaces of tasks, on pools of huge pages."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

from numa_service.node.ask import Park, Steps
from numa_service.node.node import Node

T = TypeVar("T")


def locked(node: Node, lock: int | str, steps: Steps[T]) -> Steps[T]:
    """Run `steps` while holding the lock of a region, by its id, or another by its name; return their result.

    Requests get a lock in the order of their arrival.
    """
    waiting = node.locks.get(lock)
    if waiting is None:
        node.locks[lock] = deque()
    else:
        park = Park()
        waiting.append(park)
        try:
            yield from park.wait()
        except BaseException:
            if park in waiting:
                waiting.remove(park)
            else:  # the lock has been handed to it already
                _unlock(node, lock)
            raise
    try:
        return (yield from steps)
    finally:
        _unlock(node, lock)


def _unlock(node: Node, lock: int | str) -> None:
    waiting = node.locks[lock]
    if waiting:
        waiting.popleft().wake()
    else:
        del node.locks[lock]
