"""Objects of slab caches in the text of a kernel trace: kmalloc, kmem_cache_alloc and their frees.

Text of ``/sys/kernel/tracing/trace`` or of ``perf script``, plain or gzipped. Addresses may be hashed: they
only tell objects apart. Kernels name the cache of an object when it is freed, and those before 6.2 only then:
what is not freed in the trace has a cache that is made up from its size.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from numa_service.trace.events import TraceError
from numa_service.trace.ftrace import resolve_gfp

#: Events that one trace can have: they are all held at once.
MAX_EVENTS = 2_000_000
#: Bytes of one line.
MAX_LINE = 4096
#: Largest object, in bytes: order 10.
MAX_BYTES = 4 << 20

_ALLOC = frozenset({"kmalloc", "kmalloc_node", "kmem_cache_alloc", "kmem_cache_alloc_node"})
_LINE = re.compile(
    rb"\[(\d{1,5})\](?: +\S+)? +(\d{1,10})\.(\d{1,9}): +(?:kmem:)?"
    rb"(kmalloc(?:_node)?|kmem_cache_alloc(?:_node)?|kfree|kmem_cache_free): (.*)"
)
_FIELD = re.compile(rb"\b(ptr|bytes_req|bytes_alloc|gfp_flags|node|name)=(\S+)")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class SlabEvent:
    """An object that was allocated or freed."""

    alloc: bool
    #: Trace clock.
    time_ns: int
    cpu: int
    #: Which object it is.
    address: int
    #: Name of its cache; "": it is of kmalloc, or freed by kfree.
    cache: str = ""
    #: Bytes that were asked for, and gfp bits.
    size: int = 0
    gfp: int = 0
    #: The node that was asked for; -1: any.
    node: int = -1


def read_slab_events(path: Path, progress: Callable[[int, int], None] | None = None) -> list[SlabEvent]:
    """All events of a trace in file order. TraceError, in one line, if it cannot be read or has none."""
    try:
        with path.open("rb") as file:
            events = list(_events(file, path, progress))
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from None
    if not events:
        raise TraceError(f"{path}: no event of kmalloc, kmem_cache_alloc or their frees")
    return _named(events)


def _events(file: BinaryIO, path: Path, progress: Callable[[int, int], None] | None) -> Iterator[SlabEvent]:
    size = path.stat().st_size
    packed = file.read(2) == _GZIP
    file.seek(0)
    text = gzip.GzipFile(fileobj=file) if packed else file
    flags: dict[bytes, int] = {}
    number = found = 0
    try:
        while line := text.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise TraceError(f"{path}: line {number} has more than {MAX_LINE} bytes")
            if progress and number % 4096 == 0:
                progress(file.tell(), max(size, file.tell()))
            if not (match := _LINE.search(line)):
                continue
            event = _event(match, flags, f"{path}: line {number}")
            if event:
                found += 1
                if found > MAX_EVENTS:
                    raise TraceError(f"{path}: more than {MAX_EVENTS:,} events: give a part of it")
                yield event
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TraceError(f"{path}: damaged gzip file after line {number}: {error}") from None


def _event(match: re.Match[bytes], flags: dict[bytes, int], where: str) -> SlabEvent | None:
    """One event; None for a pointer that is NULL."""
    fields = dict(_FIELD.findall(match[5]))
    try:
        address = int(fields[b"ptr"].strip(b"()"), 16) if fields[b"ptr"] != b"(nil)" else 0
        if not address:
            return None
        time_ns = int(match[2]) * 10**9 + int(match[3].ljust(9, b"0"))
        name = match[4].decode()
        cache = fields.get(b"name", b"").decode("ascii")
        if name not in _ALLOC:
            return SlabEvent(False, time_ns, int(match[1]), address, cache)
        size, text = int(fields[b"bytes_req"]), fields[b"gfp_flags"]
        if text not in flags and len(flags) < MAX_LINE:
            flags[text] = resolve_gfp(text.decode("ascii"))[0]
        node = int(fields.get(b"node", b"-1"))
    except KeyError as missing:
        raise TraceError(f"{where}: no field {missing.args[0].decode()}") from None
    except ValueError as error:
        raise TraceError(f"{where}: {error}") from None
    if not 0 <= size <= MAX_BYTES:
        raise TraceError(f"{where}: bytes_req={size} is not in 0…{MAX_BYTES}")
    if name.startswith("kmem_cache"):
        cache = cache or f"unnamed-{size}"
    return SlabEvent(True, time_ns, int(match[1]), address, cache, size, flags.get(text, 0), node)


def _named(events: list[SlabEvent]) -> list[SlabEvent]:
    """The events with the names of caches that their frees tell."""
    freed: dict[int, str] = {}
    for at in range(len(events) - 1, -1, -1):
        event = events[at]
        if not event.alloc:
            freed[event.address] = event.cache
        elif (name := freed.pop(event.address, "")) and event.cache:
            events[at] = replace(event, cache=name)
    return events
