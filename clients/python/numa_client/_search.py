"""Retries of calls to a machine or node that does not answer: how long to wait, and when to give up."""

from __future__ import annotations

import time

from numa_client._errors import DeadlineExceeded, NotFound, NumaError, Unavailable
from numa_client._types import NodeInfo

#: Pause between two calls to the machine's server, unless the service says how long to wait.
LOOK_AGAIN_SECONDS = 0.2
#: How many times the machine may name the address at which the node did not answer: it may not know yet that
#: the node is gone.
SAME_PLACE_LOOKS = 5


class Visit:
    """The retries of one call to the machine's own server at `target`, until it answers or `timeout` is over.

    The call must change nothing. A supervisor that restarts is back at its address after a few seconds.
    """

    def __init__(self, target: str, timeout: float) -> None:
        self._target = target
        self._began = time.monotonic()
        self._deadline = self._began + timeout
        #: Message of the last attempt that failed otherwise than by its deadline.
        self._why = ""

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def wait(self, error: NumaError) -> float:
        """Seconds until the next attempt, after one that ended with `error`.

        Raises Unavailable if nobody has answered until the deadline, and `error` itself if it is the
        machine's answer.
        """
        if error.retry_seconds is not None or not isinstance(error, Unavailable | DeadlineExceeded):
            return wait_for_room(error, self._deadline)
        if isinstance(error, Unavailable) or not self._why:
            self._why = error.message
        if self.left() <= LOOK_AGAIN_SECONDS:
            waited = time.monotonic() - self._began
            raise Unavailable(f"no machine answers at {self._target}: waited {waited:.1f} s; {self._why}")
        return LOOK_AGAIN_SECONDS


class Search:
    """The search for a node's new address, after a call to `used` failed with `error`.

    `deadline` is that of the call, by the monotonic clock.
    """

    def __init__(self, error: Unavailable, used: str, deadline: float) -> None:
        self._error = error
        self._used = used
        self._deadline = deadline
        self._same_place = 0
        #: Whether the time that the service said to wait is over.
        self._waited = False

    def left(self) -> float:
        """Seconds until the deadline; raises the call's error if there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._error
        return left

    def wait(self, node: NodeInfo | None) -> float | None:
        """Seconds until the machine is asked again; None if the node may be called again.

        It may be if it has another address, or at the same one once the time that the service said to wait is
        over. `node` is the machine's answer, None if it did not answer. Raises the call's error if the node
        keeps the address at which it did not answer, or if there is no time left.
        """
        if node is not None and node.address and (node.address != self._used or self._waited):
            return None
        if node is not None and node.address:
            self._same_place += 1
            if self._same_place > SAME_PLACE_LOOKS:
                raise self._error
        wait = LOOK_AGAIN_SECONDS if self._error.retry_seconds is None else self._error.retry_seconds
        if wait >= self.left():
            raise self._error
        self._waited = self._error.retry_seconds is not None
        return wait


def wait_for_room(error: NumaError, deadline: float) -> float:
    """Seconds that the service said to wait when it refused; raises `error` if none, or past the deadline."""
    if error.retry_seconds is None or time.monotonic() + error.retry_seconds >= deadline:
        raise error
    return error.retry_seconds


def unreachable(error: Unavailable, node: NodeInfo) -> Unavailable:
    """The error of a call that did not reach `node`; an error that the service itself sent stays as it is."""
    if error.reason or not node.address:
        return error
    return Unavailable(f"node {node.node} at {node.address} cannot be reached: {error.message}")


def no_answer(error: DeadlineExceeded, node: NodeInfo, timeout: float) -> DeadlineExceeded:
    """The error of a call to which `node` gave no answer within `timeout` seconds."""
    return DeadlineExceeded(
        f"node {node.node} at {node.address} did not answer within {timeout:.3g} s: {error.message}",
        reason=error.reason,
        metadata=error.metadata,
    )


def check_lineage(node: NodeInfo, session_of: int) -> None:
    """Raise NotFound if a session's node has restarted since: the session ended with the node's lineage."""
    if session_of and node.lineage > session_of:
        raise NotFound(
            f"the session was lost in the restart of node {node.node}: it was of lineage {session_of}, "
            f"now it is {node.lineage}; open another one",
            reason="SESSION_NOT_FOUND",
            metadata={"node": str(node.node), "lineage": str(node.lineage)},
        )
