"""Programs of calls: what a client has a task do in one request, one call after the other."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from numa_service.mm.mempolicy.policy import CallError
from numa_service.node import task as tasks
from numa_service.node.ask import Steps, ask, cond_resched
from numa_service.node.errors import InvalidRequest, NotFound
from numa_service.node.inbox import Inbox
from numa_service.node.move_pages import Destination
from numa_service.node.ops.fields import check_below
from numa_service.node.ops.task import check_call
from numa_service.node.owners import Owner
from numa_service.node.requests import MoveAway
from numa_service.node.task import Asked, Ran
from numa_service.node.task_calls import CALLS
from numa_service.node.task_moves import migrate_task, move_after_mbind, move_task_pages, tell_policy

#: Most calls of one program, and most pages that one move_pages names.
MAX_CALLS = 1024
MAX_MOVED = 1 << 14
#: After so many pages that a program has touched, other requests go first.
PAUSE_PAGES = 1 << 16
#: Calls that are no op of their own, with their numbers; move_pages has whether there are nodes, addresses,
#: and then as many nodes.
OTHERS: dict[str, tuple[str, ...]] = {
    "touch": ("addr", "length", "write"),
    "fork": (),
    "exit": (),
    "get_mempolicy": ("flags", "addr"),
    "migrate_pages": ("old_nodes", "new_nodes"),
}


class Step(NamedTuple):
    """A call of a program: the place in it of the fork whose child makes it, -1 for the task itself."""

    asked: Asked
    by: int = -1


def check_program(program: Sequence[Step]) -> None:
    """InvalidRequest for a call that does not exist, and for arguments that are not as many as it takes."""
    if not 1 <= len(program) <= MAX_CALLS:
        raise InvalidRequest("calls", f"{len(program)}: a program has 1…{MAX_CALLS}")
    for at, (asked, by) in enumerate(program):
        if by >= 0 and (by >= at or program[by].asked.name != "fork"):
            raise InvalidRequest("calls.by", f"{by} is no fork before call {at}")
        if asked.name not in OTHERS and asked.name != "move_pages":
            check_call(asked.name, asked.numbers, asked.text)
            continue
        if asked.text:
            raise InvalidRequest("calls.text", f"{asked.name} takes none")
        for number in asked.numbers:
            check_below("calls.numbers", number, 1 << 1024 if asked.name == "migrate_pages" else 1 << 64)
        _check_count(asked)


def _check_count(asked: Asked) -> None:
    count = len(asked.numbers)
    if asked.name != "move_pages":
        if count != len(OTHERS[asked.name]):
            raise InvalidRequest(
                "calls.numbers", f"{asked.name} takes {', '.join(OTHERS[asked.name]) or 'none'}"
            )
    elif not 2 <= count <= 2 * MAX_MOVED + 1 or (asked.numbers[0] and not count % 2):
        raise InvalidRequest("calls.numbers", f"1…{MAX_MOVED} addresses, then as many nodes if any")


def run_program(inbox: Inbox, session: int, pid: int, program: Sequence[Step]) -> Steps[list[Ran]]:
    """Have a task, and children that it forks, make calls; it ends after the first that fails.

    InvalidRequest, NotFound and Precondition before anything is done.
    """
    inbox.node.tasks.task(session, pid)
    check_program(program)
    done: list[Ran] = []
    pages = 0
    for asked, by in program:
        ran = yield from run_call(inbox, session, pid if by < 0 else done[by].value, asked)
        done.append(ran)
        if ran.errno:
            break
        pages += ran.faults + ran.hits
        if pages > PAUSE_PAGES:
            yield from cond_resched()
            pages = 0
    return done


def run_call(inbox: Inbox, session: int, pid: int, asked: Asked) -> Steps[Ran]:
    """Have a task make one call, while it holds its mmap_lock for writing."""
    try:
        return (yield from inbox.locked(f"mmap_lock of {pid}", _call(inbox, session, pid, asked)))
    except NotFound as error:
        if error.kind != "task":
            raise
        ran = Ran()
        ran.fail(errno.ESRCH, str(error))
        return ran


def _call(inbox: Inbox, session: int, pid: int, asked: Asked) -> Steps[Ran]:
    node, numbers = inbox.node, asked.numbers
    task = node.tasks.task(session, pid)
    move = partial(_ask_to_move, inbox)
    match asked.name:
        case "touch":
            start, length, write = numbers
            return (yield from tasks.touch(node, session, pid, start, length, write=bool(write)))
        case "fork":
            return (yield from tasks.fork(node, session, pid))
        case "exit":
            return (yield from tasks.exit_task(node, session, pid))
        case "get_mempolicy":
            return _checked(partial(tell_policy, node, task, numbers))
        case "migrate_pages":
            return (yield from _moving(lambda ran: migrate_task(node, task, numbers, move, ran)))
        case "move_pages":
            with_nodes, *rest = numbers
            half = len(rest) // 2 if with_nodes else len(rest)
            nodes = rest[half:] if with_nodes else None
            return (
                yield from _moving(lambda ran: move_task_pages(node, task, rest[:half], nodes, move, ran))
            )
    ran = yield from tasks.call(node, session, pid, asked)
    if asked.name == "mbind" and not ran.errno:
        yield from move_after_mbind(node, task, numbers, move, ran)
    return ran


def _checked(do: Callable[[Ran], None]) -> Ran:
    ran = Ran()
    try:
        do(ran)
    except CallError as error:
        ran.fail(error.errno, "the call is refused")
    return ran


def _moving(do: Callable[[Ran], Steps[None]]) -> Steps[Ran]:
    ran = Ran()
    try:
        yield from do(ran)
    except CallError as error:
        ran.fail(error.errno, "the call is refused")
    return ran


def _ask_to_move(
    inbox: Inbox, nid: int, owner: Owner, lru_kind: int, indexes: bytes, to: Destination | None
) -> Steps[bytes]:
    request = MoveAway(owner, lru_kind, indexes, to)
    if nid == inbox.node.nid:
        return (yield from request.run(inbox))
    return (yield from ask(inbox.node, nid, request))


#: Every call that a program may make.
NAMES = (*CALLS, *OTHERS, "move_pages")
