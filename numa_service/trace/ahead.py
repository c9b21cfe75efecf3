"""Reads a trace in a thread, ahead of its use; inflating and tokenizing hold no lock of the interpreter."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable

from numa_service.trace.events import TraceEvents

#: Most chunks that are read ahead, of 4 MB each.
CHUNKS_AHEAD = 2
#: How often a reader whose queue is full checks whether it is to stop.
_STOP_SECONDS = 0.1
#: How long to wait for a stopped reader to end; one that waits for a pipe is left running.
_END_SECONDS = 1.0


class _Reader(threading.Thread):
    """A thread that puts chunks into a queue, then None, or the exception that reading raised."""

    def __init__(self, chunks: Iterable[TraceEvents]) -> None:
        super().__init__(name="trace-reader", daemon=True)
        self.read: queue.Queue[TraceEvents | BaseException | None] = queue.Queue(CHUNKS_AHEAD)
        self.stopped = threading.Event()
        self._chunks = chunks

    def run(self) -> None:
        try:
            for chunk in self._chunks:
                if not self._put(chunk):
                    return
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: TraceEvents | BaseException | None) -> bool:
        while not self.stopped.is_set():
            try:
                self.read.put(item, timeout=_STOP_SECONDS)
                return True
            except queue.Full:
                continue
        return False


def read_ahead(chunks: Iterable[TraceEvents]) -> Generator[TraceEvents]:
    """The same chunks, read in a thread; an exception of the reader is raised here.

    A caller that stops before the end closes the generator, and the thread ends after its present chunk.
    """
    reader = _Reader(chunks)
    reader.start()
    try:
        while (item := reader.read.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        reader.stopped.set()
        reader.join(_END_SECONDS)
