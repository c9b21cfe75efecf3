"""Reading what others wrote: regular files only, and not without end."""

from __future__ import annotations

from pathlib import Path

from numa_service.machine.spec import SpecError

#: The XML of a machine with 64 nodes and 2048 CPUs has 3 MB.
MAX_BYTES = 64 << 20


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A file's content; SpecError names the file if it cannot be read, or has more than `limit` bytes."""
    try:
        if not path.is_file():
            raise SpecError(f"{path}: not a regular file: give - for standard input")
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror or error}") from None
    if len(content) > limit:
        raise SpecError(f"{path}: more than {limit >> 20} MiB: not what it is taken for")
    return content


def decode(content: bytes, source: str) -> str:
    """UTF-8 text; SpecError."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{source}: not UTF-8 text at byte {error.start}") from None
