"""Memory policies against what booted kernels answered, call by call."""

from __future__ import annotations

from errno import EFAULT, EINVAL, EIO, ENODEV, ENOENT, EOPNOTSUPP, EPERM, ESRCH

import pytest
from mm.recorded_calls import Replay, comparable, recorded

from numa_service.mm.mempolicy.policy import CallError
from numa_service.mm.mempolicy.text import mpol_parse_str, mpol_to_str
from numa_service.mm.profile import LINUX_6_1, LINUX_6_12

KERNELS = {"6.1": LINUX_6_1, "6.12": LINUX_6_12}
#: Recordings of calls; those of mount are told apart below.
NAMES = ["errno", "cpuset", "place", "weighted", "counter", "shared", "move", "extra"]


def replayed(name: str, kernel: str) -> list[tuple[str, str, str]]:
    """(call, recorded answer, the model's answer) of a recording."""
    replay = Replay(KERNELS[kernel])
    if name == "cpuset":
        replay.caller = replay.caller._replace(mems_allowed=0b11)
    return [
        (call, comparable(call, answer), comparable(call, replay.answer(call, answer)))
        for call, answer in recorded(name, kernel)
    ]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "name", ["errno", "cpuset", "place", "weighted", "counter", "shared", "move", "extra"]
)
def test_every_answer_is_the_recorded_one(name: str, kernel: str) -> None:
    assert [row for row in replayed(name, kernel) if row[1] != row[2]] == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_errno_table_is_large_and_has_every_call(kernel: str) -> None:
    calls = [call.split()[0] for call, _ in recorded("errno", kernel)]
    wanted = {
        "set_mempolicy": 80,
        "get_mempolicy": 40,
        "mbind": 60,
        "set_mempolicy_home_node": 25,
        "migrate_pages": 20,
        "move_pages": 25,
    }
    assert {name for name, least in wanted.items() if calls.count(name) < least} == set()
    answers = {answer.split(" ->")[0] for _, answer in recorded("errno", kernel)}
    errnos = {f"-1 {number}" for number in (EPERM, ENOENT, ESRCH, EIO, EFAULT, EINVAL, ENODEV, EOPNOTSUPP)}
    assert errnos <= answers


@pytest.mark.parametrize("kernel", KERNELS)
def test_moved_pages_count_as_recorded(kernel: str) -> None:
    """numa_hit and interleave_hit of each node, pgmigrate_success: but the CPU's node has files read, too."""
    replay = Replay(KERNELS[kernel])
    told: dict[str, dict[str, int]] = {}
    before: dict[str, dict[str, int]] = {}
    call, compared = "", 0
    for line, answer in recorded("move", kernel):
        if line.startswith(("mbind", "migrate_pages", "move_pages")):
            call, before = line, told
            told = {}
            replay.hits, replay.interleaved, replay.moved = {}, {}, 0
        elif line.startswith(("read", "migrated")):
            pairs = (part.split() for part in answer.split("|") if part.strip())
            told[line] = {name: int(number) for name, number in pairs}
        replay.answer(line, answer)
        if line != "migrated" or not call or call.startswith("migrate_pages"):
            continue  # migrate_pages moves what else the process has, too
        compared += 1
        assert replay.moved == told[line]["pgmigrate_success"] - before[line]["pgmigrate_success"], call
        for nid in range(3):
            was, now = (at[f"read /sys/devices/system/node/node{nid}/numastat"] for at in (before, told))
            assert now["interleave_hit"] - was["interleave_hit"] == replay.interleaved.get(nid, 0), call
            files = now["numa_hit"] - was["numa_hit"] - replay.hits.get(nid, 0)
            assert 0 <= files <= (10 if nid == 0 else 0), call
    assert compared == 13


@pytest.mark.parametrize("kernel", KERNELS)
def test_options_of_tmpfs_are_taken_as_recorded(kernel: str) -> None:
    for option, answer in recorded("mount", kernel):
        status, _, line = answer.partition(" ")
        if status != "0":
            with pytest.raises(CallError, match="EINVAL"):
                mpol_parse_str(KERNELS[kernel], option, 0b111)
            continue
        policy = mpol_parse_str(KERNELS[kernel], option, 0b111)
        shown = line.split("inode64")[1].removeprefix(",mpol=").removesuffix(" 0 0")
        assert (mpol_to_str(policy) if policy else "") == shown, option
