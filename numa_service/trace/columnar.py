"""The columnar file of a trace (``.ntrace``): smaller than the gzipped text, and read without tokenizing.

A file is :data:`MAGIC`, then frames. A frame is a length and a CRC32 (``<II``; the CRC covers the length),
then a msgpack map. A header frame is followed by frames of events, frames of kswapd changes (vmscan events,
which have no page), and an end frame with the counts. A file without an end frame is truncated: so a trace
can be written while its length is not known yet. Columns are little-endian; times and pfns are stored as
differences, and bytes of the same significance are stored together, so that zlib finds repetitions.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import numpy.typing as npt

from numa_service.trace.events import (
    EventCounts,
    KswapdLog,
    SkippedLine,
    TraceError,
    TraceEvents,
    TraceHeader,
)

#: First bytes of a file: not ASCII, and with a line end that a copy in text mode would change.
MAGIC = b"\x93NTRACE\r\n"
#: Version of the format. Version 1 had no frames of kswapd changes.
VERSION = 2
_READABLE = (1, 2)
#: Most events in a frame.
FRAME_EVENTS = 1 << 17
#: Most bytes in a frame, and thus the most that a damaged length makes a reader allocate.
MAX_FRAME_BYTES = 16 << 20

#: Most changes in a frame of kswapd changes.
_FRAME_CHANGES = 1 << 16

#: First bytes of the map in a frame of events, as this module writes it.
_EVENTS = b"\x84\xa5frame\xa6events"

_FRAME = struct.Struct("<II")
#: Columns that are stored as the difference to the element before.
_DIFFERENCES = ("time_ns", "pfn")
_ZLIB_LEVEL = 6


def write_ntrace(
    path: Path,
    header: TraceHeader,
    chunks: Iterable[TraceEvents],
    counts: EventCounts,
    kswapd: KswapdLog | None = None,
    *,
    compress: bool = True,
) -> int:
    """Write a trace, and return the number of its events.

    ``counts`` and ``kswapd`` are read after the last of the ``chunks``, and may grow until then. The file
    appears whole or not at all. OSError of the file system.
    """
    partial = path.with_name(path.name + ".partial")
    events = 0
    try:
        with partial.open("wb") as out:
            out.write(MAGIC)
            _write_frame(out, {"frame": "header", "version": VERSION, "trace": asdict(header)})
            for chunk in chunks:
                for begin in range(0, len(chunk), FRAME_EVENTS):
                    part = chunk.part(begin, begin + FRAME_EVENTS)
                    _write_frame(out, _pack_events(part, compress))
                    events += len(part)
            changes = kswapd or KswapdLog()
            for begin in range(0, len(changes), _FRAME_CHANGES):
                rows = changes.rows(begin, begin + _FRAME_CHANGES)
                _write_frame(out, {"frame": "kswapd", "changes": rows})
            _write_frame(out, {"frame": "end", "events": events, "counts": asdict(counts)})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return events


class NtraceParser:
    """Reads one columnar file.

    ``header`` is known at once, ``counts`` and ``kswapd`` after the last chunk.
    """

    def __init__(self, stream: BinaryIO, where: str) -> None:
        """Read the header; ``where`` names the file in errors. TraceError if it is not a columnar file."""
        self._stream = stream
        self._where = where
        self._offset = 0
        if self._read(len(MAGIC)) != MAGIC:
            raise self._error(0, "not an ntrace file")
        at = self._offset
        frame = self._frame("header")
        if frame.get("version") not in _READABLE:
            raise self._error(at, f"version {frame.get('version')!r}; this program reads up to {VERSION}")
        try:
            self.header = TraceHeader(**frame["trace"])
        except (KeyError, TypeError) as error:
            raise self._error(at, f"malformed header frame ({error})") from None
        self.counts = EventCounts()
        #: When kswapds ran; complete after the last chunk.
        self.kswapd = KswapdLog()

    def chunks(self) -> Iterator[TraceEvents]:
        """The events, in the chunks in which they were written; to be iterated once.

        TraceError gives the offset of the frame that is damaged or missing.
        """
        events = 0
        while True:
            at = self._offset
            frame = self._frame("events", "kswapd", "end")
            if frame["frame"] == "kswapd":
                self._kswapd(frame, at)
                continue
            try:
                if frame["frame"] == "end":
                    counts = frame["counts"]
                    examples = [SkippedLine(**line) for line in counts.pop("skipped_examples")]
                    self.counts = EventCounts(skipped_examples=examples, **counts)
                    expected = frame["events"]
                    break
                chunk = _unpack_events(frame)
            except (KeyError, TypeError, AttributeError, ValueError, zlib.error) as error:
                raise self._error(at, f"malformed {frame['frame']} frame ({error})") from None
            events += len(chunk)
            yield chunk
        if events != expected:
            raise self._error(at, f"{events} events read, {expected!r} written")
        if self._stream.read(1):
            raise self._error(self._offset, "data after the end frame")

    def only_kswapd(self) -> KswapdLog:
        """When the traced kswapds ran; for use instead of :meth:`chunks`, whose events are skipped.

        TraceError as of :meth:`chunks`.
        """
        while True:
            at = self._offset
            begin = self._stream.read(_FRAME.size + len(_EVENTS))
            self._stream.seek(at)
            length = int.from_bytes(begin[:4], "little")
            if begin[_FRAME.size + 1 :] == _EVENTS[1:] and length <= MAX_FRAME_BYTES:
                self._offset = self._stream.seek(at + _FRAME.size + length)
                continue
            frame = self._frame("events", "kswapd", "end")
            if frame["frame"] == "end":
                return self.kswapd
            if frame["frame"] == "kswapd":
                self._kswapd(frame, at)

    def _kswapd(self, frame: dict[str, Any], at: int) -> None:
        try:
            self.kswapd.extend(frame["changes"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._error(at, f"malformed kswapd frame ({error})") from None

    def _read(self, size: int) -> bytes:
        data = self._stream.read(size)
        if len(data) < size:
            raise self._error(self._offset + len(data), f"truncated: {size - len(data)} bytes more expected")
        self._offset += size
        return data

    def _frame(self, *names: str) -> dict[str, Any]:
        at = self._offset
        prefix = self._read(_FRAME.size)
        length, crc = _FRAME.unpack(prefix)
        if length > MAX_FRAME_BYTES:
            raise self._error(at, f"frame of {length} bytes, more than {MAX_FRAME_BYTES}: damaged")
        payload = self._read(length)
        if _crc(prefix[:4], payload) != crc:
            raise self._error(at, "checksum of the frame is wrong: damaged")
        try:
            frame = msgpack.unpackb(payload)
        except (ValueError, msgpack.UnpackException) as error:
            raise self._error(at, f"frame is not msgpack ({error})") from None
        if not isinstance(frame, dict) or frame.get("frame") not in names:
            raise self._error(at, f"not a frame of {' or '.join(names)}")
        return frame

    def _error(self, offset: int, reason: str) -> TraceError:
        return TraceError(f"{self._where}: byte {offset}: {reason}")


def _crc(length: bytes, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(length))


def _write_frame(out: BinaryIO, frame: dict[str, Any]) -> None:
    payload = msgpack.packb(frame)
    length = struct.pack("<I", len(payload))
    out.write(length + struct.pack("<I", _crc(length, payload)) + payload)


def _pack_events(events: TraceEvents, compress: bool) -> dict[str, Any]:
    columns = {}
    for name, column in events.columns().items():
        data = _to_bytes(column, name in _DIFFERENCES)
        columns[name] = zlib.compress(data, _ZLIB_LEVEL) if compress else data
    return {
        "frame": "events",
        "events": len(events),
        "codec": "zlib" if compress else "none",
        "columns": columns,
    }


def _unpack_events(frame: dict[str, Any]) -> TraceEvents:
    length = frame["events"]
    if not isinstance(length, int) or not 0 <= length <= FRAME_EVENTS:
        raise ValueError(f"{length!r} events in a frame")
    if frame["codec"] not in ("zlib", "none"):
        raise ValueError(f"codec {frame['codec']!r}")
    columns = {}
    for name, dtype in TraceEvents.DTYPES.items():
        data = frame["columns"][name]
        size = length * dtype.itemsize
        if frame["codec"] == "zlib":
            inflate = zlib.decompressobj()
            # at most one byte too many is inflated: enough to see that a column is too long
            data = inflate.decompress(data, size + 1)
        if len(data) != size:
            raise ValueError(f"column {name} has not {size} bytes")
        columns[name] = _from_bytes(data, length, dtype, name in _DIFFERENCES)
    return TraceEvents(**columns)


def _to_bytes(column: npt.NDArray[Any], differences: bool) -> bytes:
    if differences:
        # unsigned differences wrap, so that the sums are exact for every value
        unsigned = column.view("<u8")
        column = np.diff(unsigned, prepend=np.zeros(1, "<u8"))
    column = np.ascontiguousarray(column)
    return column.view(np.uint8).reshape(len(column), column.itemsize).T.tobytes()


def _from_bytes(data: bytes, length: int, dtype: np.dtype[Any], differences: bool) -> npt.NDArray[Any]:
    planes = np.frombuffer(data, np.uint8).reshape(dtype.itemsize, length)
    column = np.ascontiguousarray(planes.T).reshape(-1).view("<u8" if differences else dtype)
    return np.cumsum(column, dtype="<u8").view(dtype) if differences else column
