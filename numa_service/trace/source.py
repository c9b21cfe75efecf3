"""Any trace by its path: plain text, gzipped text or columnar, told apart by their first bytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from numa_service.machine.files import open_regular
from numa_service.machine.spec import SpecError
from numa_service.trace.columnar import MAGIC, NtraceParser
from numa_service.trace.events import (
    EventCounts,
    KswapdChange,
    KswapdLog,
    TraceError,
    TraceEvents,
    TraceHeader,
)
from numa_service.trace.ftrace import BLOCK_BYTES, TextParser, kswapd_changes

#: Called with bytes of the file done and in total.
Progress = Callable[[int, int], None]

#: The trace in a capture directory.
TRACE_FILES = ("t.trace.gz", "t.trace", "t.ntrace")

_GZIP_MAGIC = b"\x1f\x8b"
_NOT_OURS = {
    b"PERFILE2": "a perf.data file; give the text of perf script",
    b"\x17\x08\x44tracing": "a trace-cmd file; give the text of trace-cmd report",
}


class TraceReader:
    """An open trace: iterate it once for its events, in file order, a chunk at a time.

    ``header`` is known at once; ``counts`` are complete when the iteration has ended. A context manager:
    leaving it closes the file.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        """Open a trace, or that of a directory (:data:`TRACE_FILES`); TraceError if there is none."""
        self.path = _resolve(path)
        self._progress = progress
        try:
            # what is named may be a pipe; what lies in a capture is a file of it
            self._file = open_regular(self.path, path) if path.is_dir() else self.path.open("rb")
        except SpecError as error:
            raise TraceError(str(error)) from None
        except OSError as error:
            raise TraceError(f"{path}: {error.strerror}") from None
        try:
            self._size = self.path.stat().st_size
            self._parser = self._open()
        except BaseException:
            self._file.close()
            raise

    @property
    def header(self) -> TraceHeader:
        """What the trace says of itself; ``header.overwritten`` events were lost before it begins."""
        return self._parser.header

    @property
    def counts(self) -> EventCounts:
        """What has been read so far."""
        return self._parser.counts

    @property
    def kswapd(self) -> KswapdLog:
        """When the traced kswapds ran, as far as has been read."""
        return self._parser.kswapd

    def __iter__(self) -> Iterator[TraceEvents]:
        for chunk in self._parser.chunks():
            self._report()
            yield chunk
        self._report()

    def __enter__(self) -> TraceReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def only_kswapd(self) -> Iterator[KswapdChange]:
        """When the traced kswapds ran, without the events; instead of iterating."""
        if isinstance(self._parser, NtraceParser):
            yield from self._parser.only_kswapd()
            return
        self._file.seek(0)
        packed = self._file.peek(2).startswith(_GZIP_MAGIC)
        text = gzip.GzipFile(fileobj=self._file) if packed else self._file
        rest = b""
        try:
            for block in iter(partial(text.read, BLOCK_BYTES), b""):
                block = rest + block
                end = block.rfind(b"\n") + 1
                rest = block[end:]
                if len(rest) > BLOCK_BYTES:
                    raise TraceError(f"{self.path}: a line of more than {BLOCK_BYTES} bytes")
                yield from kswapd_changes(block, end)
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"{self.path}: {error}") from None

    def close(self) -> None:
        """Close the file; the trace cannot be read on."""
        self._file.close()

    def _open(self) -> TextParser | NtraceParser:
        where = str(self.path)
        start = self._file.peek(len(MAGIC))
        if start.startswith(MAGIC):
            return NtraceParser(self._file, where)
        if start.startswith(_GZIP_MAGIC):
            return TextParser(_Gunzip(self._file, where), where)
        for magic, what in _NOT_OURS.items():
            if start.startswith(magic):
                raise TraceError(f"{where}: {what}")
        return TextParser(self._file, where)

    def _report(self) -> None:
        if self._progress:
            done = self._file.tell()
            # A file of tracefs has size 0.
            self._progress(done, max(done, self._size))


def open_trace(path: Path, progress: Progress | None = None) -> TraceReader:
    """The events of a trace, and what is known of it. TraceError, one line, for what cannot be read."""
    return TraceReader(path, progress)


def read_kswapd(path: Path) -> tuple[KswapdChange, ...]:
    """When each kswapd woke and slept; TraceError if the file cannot be read.

    The whole of a text is searched, as the changes are wanted before its events; of a columnar file only the
    frames that have them are read.
    """
    with open_trace(path) as reader:
        return tuple(reader.only_kswapd())


class _Gunzip:
    """Text of a gzip file, errors as TraceError."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self._where = where
        self._gzip = gzip.GzipFile(fileobj=file, mode="rb")
        self._done = 0

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            got = self._gzip.readinto(buffer)
        except EOFError:
            raise TraceError(
                f"{self._where}: truncated gzip file: it ends at byte {self._file.tell()}, after more than "
                f"{self._done} bytes of text"
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(
                f"{self._where}: damaged gzip file before byte {self._file.tell()}: {error}"
            ) from None
        self._done += got
        return got


def _resolve(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in TRACE_FILES:
        if (path / name).is_file():
            return path / name
    *others, last = TRACE_FILES
    raise TraceError(f"{path}: no {', '.join(others)} or {last} in this directory")
