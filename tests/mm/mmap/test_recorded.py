"""Calls on address spaces against what booted kernels answered, call by call, and what they mapped then."""

from __future__ import annotations

import errno

import pytest
from mm.mmap.recorded_mmap import RECORDINGS, replayed
from mm.recorded_calls import recorded

from numa_service.mm.profile import LINUX_6_1, LINUX_6_12

KERNELS = {"6.1": LINUX_6_1, "6.12": LINUX_6_12}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["errno", "hugetlb"])
def test_every_answer_is_the_recorded_one(name: str, kernel: str) -> None:
    rows = replayed(name, kernel, KERNELS[kernel])
    assert [row for row in rows if row[1] != row[2]] == []


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_errno_table_is_large_and_has_every_call(kernel: str) -> None:
    rows = [*recorded("errno", kernel, RECORDINGS), *recorded("hugetlb", kernel, RECORDINGS)]
    calls = [call.removeprefix("p1 ").removeprefix("p2 ").split()[0] for call, _ in rows]
    wanted = {
        "mmap": 150,
        "munmap": 30,
        "mprotect": 60,
        "mremap": 70,
        "madvise": 600,
        "brk": 20,
        "mlock": 25,
        "mlock2": 5,
        "munlock": 8,
        "mlockall": 15,
        "msync": 25,
        "mincore": 15,
        "remap_file_pages": 15,
        "touch": 100,
        "fork": 10,
        "shmget": 4,
    }
    assert {name for name, least in wanted.items() if calls.count(name) < least} == set()
    numbers = (errno.EPERM, errno.EBADF, errno.EAGAIN, errno.ENOMEM, errno.EACCES, errno.EFAULT, errno.EBUSY)
    numbers += (errno.EEXIST, errno.ENODEV, errno.EINVAL, errno.EOVERFLOW, errno.EOPNOTSUPP)
    answers = {answer.split(" ;")[0].split(" ->")[0] for _, answer in rows}
    assert {f"-1 {number}" for number in numbers} - answers == set()
