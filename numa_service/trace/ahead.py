"""Reading a trace ahead of what is done with it: inflating and tokenizing hold no lock of the interpreter."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable

from numa_service.trace.events import TraceEvents

#: Chunks that wait, at most: 4 MB each.
CHUNKS_AHEAD = 2
#: For the reader to see that nobody wants more.
_STOP_SECONDS = 0.1
#: For it to end; one that waits for a pipe is left behind.
_END_SECONDS = 1.0


class _Reader(threading.Thread):
    """Puts chunks into a queue, then None; or whatever was raised."""

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
    """The same chunks, read in a thread; what reading raises is raised here.

    Whoever stops before the end closes it: the thread then ends with the chunk that it reads.
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
