"""The filter, run as the kernel's machine for such programs would."""

from __future__ import annotations

import os
import struct

import pytest

from numa_service.calls.seccomp import Call, program

X86_64, I386 = 0xC000003E, 0x40000003
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000


def verdict(nr: int, *args: int, arch: int = X86_64) -> int:
    """What the filter says of a call."""
    data = struct.pack("iIQ6Q", nr, arch, 0, *args, *[0] * (6 - len(args)))
    code, at, value = program(), 0, 0
    while True:
        op, jump_true, jump_false, k = struct.unpack_from("HBBI", code, 8 * at)
        at += 1
        match op:
            case 0x20:
                (value,) = struct.unpack_from("I", data, k)
            case 0x15:
                at += jump_true if value == k else jump_false
            case 0x45:
                at += jump_true if value & k else jump_false
            case 0x06:
                return int(k)


CONDITIONAL = (Call.OPEN, Call.OPENAT, Call.MMAP, Call.CLONE)


@pytest.mark.parametrize("call", [call for call in Call if call not in CONDITIONAL])
def test_calls_that_are_handed_over(call: Call) -> None:
    assert verdict(call) == NOTIFY
    assert verdict(call, arch=I386) == ALLOW


def test_every_other_call_is_the_hosts() -> None:
    others = set(range(600)) - set(Call)
    assert {verdict(nr) for nr in others} == {ALLOW}


def test_only_files_that_are_read_are_asked_for() -> None:
    for flags in (os.O_RDONLY, os.O_CLOEXEC, os.O_NONBLOCK, os.O_NOFOLLOW):
        assert verdict(Call.OPENAT, 0, 0, flags) == verdict(Call.OPEN, 0, flags) == NOTIFY
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_DIRECTORY, os.O_PATH):
        assert verdict(Call.OPENAT, 0, 0, flags) == verdict(Call.OPEN, 0, flags) == ALLOW


def test_threads_are_asked_for_and_processes_are_not() -> None:
    clone_thread, fork = 0x10000, 57
    assert verdict(Call.CLONE, 0x3D0F00 | clone_thread) == NOTIFY
    assert verdict(Call.CLONE, 0x1200011) == verdict(fork) == ALLOW


def test_only_mappings_that_replace_others_are_asked_for() -> None:
    assert verdict(Call.MMAP, 0, 4096, 3, 0x32) == NOTIFY
    assert verdict(Call.MMAP, 0, 4096, 3, 0x22) == ALLOW
