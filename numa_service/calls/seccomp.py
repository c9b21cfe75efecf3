"""The filter that hands a program's calls to a supervisor, and these calls (``seccomp_unotify(2)``).

Of the standard library only, and x86-64 only: numbers of calls and the layout of structs are that kernel's.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import socket
import struct
from enum import IntEnum
from typing import Final, NamedTuple


class Call(IntEnum):
    """The calls that may be handed over, by their numbers on x86-64."""

    OPEN = 2
    MMAP = 9
    MUNMAP = 11
    MREMAP = 25
    CLONE = 56
    SYSINFO = 99
    SCHED_SETAFFINITY = 203
    SCHED_GETAFFINITY = 204
    EXIT_GROUP = 231
    MBIND = 237
    SET_MEMPOLICY = 238
    GET_MEMPOLICY = 239
    MIGRATE_PAGES = 256
    OPENAT = 257
    MOVE_PAGES = 279
    GETCPU = 309
    CLONE3 = 435
    OPENAT2 = 437
    SET_MEMPOLICY_HOME_NODE = 450


# constants of linux/seccomp.h, linux/filter.h, linux/audit.h and sys/prctl.h
_SYS_SECCOMP = 317
_SET_MODE_FILTER = 1
_FILTER_FLAG_NEW_LISTENER = 1 << 3
_FILTER_FLAG_WAIT_KILLABLE_RECV = 1 << 5
_RET_ALLOW, _RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
_AUDIT_ARCH_X86_64 = 0xC000003E
_PR_SET_NO_NEW_PRIVS = 38
_LOAD, _EQUAL, _ANY_OF, _RETURN = 0x20, 0x15, 0x45, 0x06
#: Places in struct seccomp_data: of the number, of the architecture, of the low half of the first argument.
_NR, _ARCH, _ARGS = 0, 4, 16

#: A file that is opened to be read only has none of these flags; O_PATH opens no contents.
_NOT_READ_ONLY: Final = os.O_ACCMODE | os.O_CREAT | os.O_DIRECTORY | os.O_PATH
_MAP_FIXED: Final = 0x10
_CLONE_THREAD: Final = 0x10000
#: Calls of which only some are handed over: (argument, bits of it, whether any of the bits has to be set).
_ONLY: Final = {
    Call.OPEN: (1, _NOT_READ_ONLY, False),
    Call.OPENAT: (2, _NOT_READ_ONLY, False),
    Call.MMAP: (3, _MAP_FIXED, True),
    # fork() is not handed over: a signal would end it with EINTR, which no program expects
    Call.CLONE: (0, _CLONE_THREAD, True),
}

_libc = ctypes.CDLL(None, use_errno=True)


class Unsupported(Exception):
    """The host's kernel, or what this process is permitted, allows no supervision; the text says why."""


def _instruction(code: int, jump_true: int, jump_false: int, k: int) -> bytes:
    return struct.pack("HBBI", code, jump_true, jump_false, k)


def program() -> bytes:
    """The filter: calls of another architecture, and all but those of :class:`Call`, are allowed."""
    conditional = [call for call in Call if call in _ONLY]
    always = [call for call in Call if call not in _ONLY]
    parts: list[bytes] = []
    # one behind the other: three instructions for each conditional call, one for each other call, two returns
    for at, call in enumerate(conditional):
        argument, bits, wanted = _ONLY[call]
        allow = 3 * (len(conditional) - at - 1) + len(always)
        jumps = (allow + 1, allow) if wanted else (allow, allow + 1)
        parts += [
            _instruction(_EQUAL, 0, 2, call),
            _instruction(_LOAD, 0, 0, _ARGS + 8 * argument),
            _instruction(_ANY_OF, *jumps, bits),
        ]
    for at, call in enumerate(always):
        parts.append(_instruction(_EQUAL, len(always) - at, 0, call))
    parts += [_instruction(_RETURN, 0, 0, _RET_ALLOW), _instruction(_RETURN, 0, 0, _RET_USER_NOTIF)]
    head = [
        _instruction(_LOAD, 0, 0, _ARCH),
        _instruction(_EQUAL, 1, 0, _AUDIT_ARCH_X86_64),
        _instruction(_RETURN, 0, 0, _RET_ALLOW),
        _instruction(_LOAD, 0, 0, _NR),
    ]
    return b"".join([*head, *parts])


def install() -> int:
    """Put this process, and all that it becomes and makes, under the filter; the listener's descriptor.

    Unsupported if the kernel has no user notification (before 5.0), if another supervisor listens already,
    or if a container forbids seccomp().
    """
    code = program()
    text = ctypes.create_string_buffer(code, len(code))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(text)))
    for flags in (_FILTER_FLAG_NEW_LISTENER | _FILTER_FLAG_WAIT_KILLABLE_RECV, _FILTER_FLAG_NEW_LISTENER):
        listener: int = _libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, filter_)
        number = ctypes.get_errno()
        if listener < 0 and number == errno.EACCES:
            # without CAP_SYS_ADMIN, a filter needs the promise that no program gets more rights by execve()
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            listener = _libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, flags, filter_)
            number = ctypes.get_errno()
        if listener >= 0:
            return listener
        if number != errno.EINVAL:
            break
    reasons = {
        errno.EINVAL: "the host's kernel has no seccomp user notification (Linux 5.0 and later have)",
        errno.ENOSYS: "the host's kernel has no seccomp",
        errno.EBUSY: "another supervisor answers this process's calls already",
        errno.EPERM: "seccomp() is forbidden here: in a container, allow it in the seccomp profile",
    }
    raise Unsupported(reasons.get(number, f"seccomp: {os.strerror(number)}"))


def check_host() -> None:
    """Unsupported where calls have other numbers than those of :class:`Call`."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unsupported(f"calls are answered on x86-64 Linux only, not on {platform.machine()}")


def hand_over(listener: int, to: int) -> None:
    """Send the listener to the supervisor at the other end of the socket `to`, and close both."""
    with socket.socket(fileno=to) as end:
        socket.send_fds(end, [b"listener"], [listener])
    os.close(listener)


def receive(end: socket.socket) -> int | None:
    """The listener's descriptor; None if the process ended without one."""
    _, descriptors, _, _ = socket.recv_fds(end, 16, 1)
    return descriptors[0] if descriptors else None


# struct seccomp_notif, seccomp_notif_resp and seccomp_notif_addfd
_NOTIF = struct.Struct("QIIiIQ6Q")
_RESPONSE = struct.Struct("QqiI")
_ADDFD = struct.Struct("QIIII")
_CONTINUE = 1
_ADDFD_SEND = 1 << 1
_SYNC_WAKE_UP = 1


def _ioctl(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("!") << 8 | number


_RECV = _ioctl(3, 0, _NOTIF.size)
_SEND = _ioctl(3, 1, _RESPONSE.size)
_ID_VALID = _ioctl(1, 2, 8)
_ADD_FD = _ioctl(1, 3, _ADDFD.size)
_SET_FLAGS = _ioctl(1, 4, 8)


class Notification(NamedTuple):
    """A call that waits for its answer."""

    id: int
    #: The thread that calls, by its number in the supervisor's PID namespace.
    tid: int
    call: Call
    args: tuple[int, ...]


class Listener:
    """Where calls arrive. An answer to a caller that is gone is dropped, as nobody waits for it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        # Since Linux 6.6: the supervisor runs at once on the caller's CPU, and back.
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _SET_FLAGS, _SYNC_WAKE_UP)

    def has_some(self) -> bool:
        """Whether a call has arrived that was not received yet."""
        return any(events & select.POLLIN for _, events in self._poll.poll(0))

    def receive(self) -> Notification | None:
        """The next call; None if its caller was killed meanwhile."""
        buffer = array.array("B", bytes(_NOTIF.size))
        try:
            fcntl.ioctl(self.descriptor, _RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return None
            raise
        id_, tid, _, nr, _, _, *args = _NOTIF.unpack(buffer)
        return Notification(id_, tid, Call(nr), tuple(args))

    def waits(self, notification: Notification) -> bool:
        """Whether the caller still waits: only then a thread of this number is the one that called."""
        try:
            fcntl.ioctl(self.descriptor, _ID_VALID, struct.pack("Q", notification.id))
        except OSError:
            return False
        return True

    def let_host_answer(self, notification: Notification) -> None:
        """The host's kernel carries the call out."""
        self._send(_RESPONSE.pack(notification.id, 0, 0, _CONTINUE))

    def answer(self, notification: Notification, value: int) -> None:
        """The call returns `value`, or fails with the errno -`value`."""
        self._send(_RESPONSE.pack(notification.id, max(value, 0), min(value, 0), 0))

    def answer_with_file(self, notification: Notification, text: bytes, *, close_on_exec: bool) -> None:
        """The call returns the descriptor of a new file with this text."""
        file = os.memfd_create("numa-service", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(file, text)
            os.lseek(file, 0, os.SEEK_SET)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            flags = os.O_CLOEXEC if close_on_exec else 0
            try:
                fcntl.ioctl(
                    self.descriptor, _ADD_FD, _ADDFD.pack(notification.id, _ADDFD_SEND, file, 0, flags)
                )
            except OSError as error:
                # the caller is gone, or has as many files open as it may
                self.answer(notification, -(error.errno or errno.EMFILE))
        finally:
            os.close(file)

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, response)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
