"""Opens a trace by its path: plain text, gzipped text or a columnar file, told apart by the first bytes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from numa_service.machine.input_files import open_regular
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

#: A function that is called with the bytes of the file read so far, and with all of them.
Progress = Callable[[int, int], None]

#: Names of the trace in a capture directory; the first that exists is read.
TRACE_FILES = ("t.trace.gz", "t.trace", "t.ntrace")

_GZIP_MAGIC = b"\x1f\x8b"
_NOT_OURS = {
    b"PERFILE2": "a perf.data file; give the text of perf script",
    b"\x17\x08\x44tracing": "a trace-cmd file; give the text of trace-cmd report",
}


class TraceReader:
    """An open trace, which is iterated once for its events, in file order and a chunk at a time.

    ``header`` is known at once; ``counts`` are complete when the iteration has ended. It is a context manager
    that closes the file.
    """

    def __init__(self, path: Path, progress: Progress | None = None) -> None:
        """Open a trace, or the one in a directory (:data:`TRACE_FILES`); TraceError if that fails."""
        self.path = _resolve(path)
        self._progress = progress
        try:
            # a path given by the user may be a pipe; in a capture only regular files are opened
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
        """The comment lines at the top of the trace."""
        return self._parser.header

    @property
    def counts(self) -> EventCounts:
        """The counts of what has been read so far."""
        return self._parser.counts

    @property
    def kswapd(self) -> KswapdLog:
        """When the traced kswapds ran, in what has been read so far."""
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
        """When the traced kswapds ran; for use instead of the iteration, without its events."""
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
        """Close the file; no more chunks can be read."""
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
            # the size of a file in tracefs is 0
            self._progress(done, max(done, self._size))


def open_trace(path: Path, progress: Progress | None = None) -> TraceReader:
    """Open a trace; TraceError, in one line, if it cannot be read."""
    return TraceReader(path, progress)


def read_kswapd(path: Path) -> tuple[KswapdChange, ...]:
    """All kswapd changes of a trace, for callers that need them before the events; TraceError.

    Of a text the whole is searched; of a columnar file only the frames of changes are read.
    """
    with open_trace(path) as reader:
        return tuple(reader.only_kswapd())


class _Gunzip:
    """A ByteStream of the text in a gzip file; its errors are TraceErrors."""

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
