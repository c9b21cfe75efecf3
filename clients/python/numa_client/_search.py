"""Who does not answer where it was, machine or node: when to ask again, and when to give up."""

from __future__ import annotations

import time

from numa_client._errors import DeadlineExceeded, NotFound, NumaError, Unavailable
from numa_client._types import NodeInfo

#: Between two looks at the machine, where the service does not say how long to wait.
LOOK_AGAIN_SECONDS = 0.2
#: Looks that find the node where it did not answer: the machine may not know yet that it is gone.
SAME_PLACE_LOOKS = 5


class Visit:
    """For one call of the machine's own server, at `target`, that changes nothing: made until it is answered.

    A supervisor that is restarted is back at its address after a few seconds.
    """

    def __init__(self, target: str, timeout: float) -> None:
        self._target = target
        self._began = time.monotonic()
        self._deadline = self._began + timeout
        #: What the last attempt said that did not just run out of time.
        self._why = ""

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    def wait(self, error: NumaError) -> float:
        """Seconds until the next attempt, after one that ended with `error`.

        Raises Unavailable when nobody has answered until the deadline, and `error` itself when it is what
        the machine said.
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
    """For one call that got no answer at `used` before its `deadline` (of the monotonic clock)."""

    def __init__(self, error: Unavailable, used: str, deadline: float) -> None:
        self._error = error
        self._used = used
        self._deadline = deadline
        self._same_place = 0
        #: The service said how long to wait, and that has been waited for.
        self._waited = False

    def left(self) -> float:
        """Seconds until the deadline; raises what the call raised when there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._error
        return left

    def wait(self, node: NodeInfo | None) -> float | None:
        """Seconds until the next look at the machine; None when the node may be called again.

        That is, at another address, or where it was once the time is over that the service named. `node` is
        what the machine says of it, None when the machine did not answer. Raises what the call raised if the
        node stays where it was, or if there is no time left.
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
    """Seconds that the service said to wait when it refused; raises `error` if it named none, or too many."""
    if error.retry_seconds is None or time.monotonic() + error.retry_seconds >= deadline:
        raise error
    return error.retry_seconds


def unreachable(error: Unavailable, node: NodeInfo) -> Unavailable:
    """What a call raises that did not get through to `node`; what the service itself said stays as it is."""
    if error.reason or not node.address:
        return error
    return Unavailable(f"node {node.node} at {node.address} cannot be reached: {error.message}")


def no_answer(error: DeadlineExceeded, node: NodeInfo, timeout: float) -> DeadlineExceeded:
    """What a call raises that got no answer from `node` within `timeout` seconds."""
    return DeadlineExceeded(
        f"node {node.node} at {node.address} did not answer within {timeout:.3g} s: {error.message}",
        reason=error.reason,
        metadata=error.metadata,
    )


def check_incarnation(node: NodeInfo, session_of: int) -> None:
    """NotFound if the node of a session has restarted since: the session ended with that incarnation."""
    if session_of and node.incarnation > session_of:
        raise NotFound(
            f"the session was lost in the restart of node {node.node}: it was of incarnation {session_of}, "
            f"now it is {node.incarnation}; open another one",
            reason="SESSION_NOT_FOUND",
            metadata={"node": str(node.node), "incarnation": str(node.incarnation)},
        )
