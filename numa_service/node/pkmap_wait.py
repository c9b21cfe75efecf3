"""Who waits for an entry of the pool of kmap (``pkmap_map_wait``), of the requests of one node.

The node that has the pool knows which other nodes have somebody in their queues.
"""

from __future__ import annotations

from collections.abc import Callable


class PkmapWait:
    """The queue of one node."""

    def __init__(self) -> None:
        #: (session, what resumes its request), in order of arrival.
        self._waiting: list[tuple[int, Callable[[], None]]] = []

    def enter(self, session: int, wake: Callable[[], None]) -> tuple[int, Callable[[], None]]:
        """Stand in the queue; what is returned is passed to :meth:`leave`."""
        waiting = session, wake
        self._waiting.append(waiting)
        return waiting

    def leave(self, waiting: tuple[int, Callable[[], None]]) -> None:
        """Leave the queue, unless it has been woken."""
        if waiting in self._waiting:
            self._waiting.remove(waiting)

    def wake(self, session: int | None = None) -> None:
        """Wake all, who look again whether there is an entry, or only requests of one session."""
        for waiting in [w for w in self._waiting if session in (None, w[0])]:
            self._waiting.remove(waiting)
            waiting[1]()

    def __len__(self) -> int:
        return len(self._waiting)
