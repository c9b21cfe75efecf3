"""What a task is told, and what came of it. Without gRPC."""

from __future__ import annotations

from dataclasses import dataclass

from numa_client._policy import Policy, PolicyFlag

#: Modes of policies by the kernel's numbers (MPOL_*).
MODES = ("DEFAULT", "PREFERRED", "BIND", "INTERLEAVE", "LOCAL", "PREFERRED_MANY", "WEIGHTED_INTERLEAVE")
_FLAGS = {PolicyFlag.STATIC: 1 << 15, PolicyFlag.RELATIVE: 1 << 14}


@dataclass(frozen=True, slots=True)
class TaskCall:
    """A call of a task. `numbers` are its arguments in the order of its manual page, without masks of nodes.

    proto/numa/v1/task_service.proto lists the calls.
    """

    name: str
    numbers: tuple[int, ...] = ()
    #: The path of a file (mmap), or a name (set_anon_name).
    text: str = ""
    nodes: tuple[int, ...] = ()
    #: migrate_pages: the nodes to which pages move.
    to_nodes: tuple[int, ...] = ()
    #: The place in the program of an earlier fork whose child makes the call; None: the task itself.
    by: int | None = None


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a call of a task came to."""

    #: An address, a pid, a mode or a node, as the call has it; -1 of one that failed.
    value: int
    #: 0, or a number of errno.h; and what was wrong, with the errno's name.
    errno: int
    error: str
    fault_pages: int
    major_fault_pages: int
    hit_pages: int
    moved_pages: int
    failed_pages: int
    #: move_pages: the node or a negative errno of each page. get_mempolicy: the policy's nodes.
    status: tuple[int, ...]
    #: Questions to other nodes.
    remote_lookups: int


def mode_of(policy: Policy | None) -> int:
    """The mode of a policy with its flags, as set_mempolicy(2) and mbind(2) take it; None is the default."""
    if policy is None:
        return 0
    return MODES.index(policy.mode.name) | (_FLAGS[policy.flag] if policy.flag is not None else 0)


def prot_of(letters: str) -> int:
    """PROT_* of a protection as maps writes it: "r", "rw", "rx", "" for none."""
    return sum({"r": 1, "w": 2, "x": 4}[letter] for letter in letters)
