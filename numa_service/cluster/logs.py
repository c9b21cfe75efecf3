"""Logs of the service's processes: one JSON object a line, or for people when they look (a terminal).

Modules log with :mod:`logging` as everywhere. What a line needs beside its text (machine, node, the
request, the trace) is put in when it is written: requests pay nothing for it. Of warnings and errors that
repeat, a few are written and the rest is counted: what a client does to us all day must not fill a disk.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from numa_service.node.errors import fault

#: DEBUG, INFO, WARNING or ERROR.
LEVEL = "NUMA_SERVICE_LOG_LEVEL"
#: Of warnings and errors that are alike, so many are written within so many seconds.
FEW = 3
REPEAT_SECONDS = 60.0
#: Beside our own: those whose errors our clients can cause.
_LOGGERS = ("numa_service", "aiohttp", "asyncio", "grpc")


def configure_logs(stream: TextIO | None = None, **about: object) -> None:
    """What numa_service and its servers log goes to `stream` (stderr); `about` is in every line."""
    stream = stream or sys.stderr

    def who(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        # Ray gives every record of its processes fields of its own, for nobody to read
        return {**about, **{key: value for key, value in event.items() if not key.startswith("_ray_")}}

    common: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _request,
        _trace,
        who,
    ]
    show: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if stream.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=common,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *show],
        )
    )
    handler.addFilter(_Repeats(handler))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
    logging.getLogger("numa_service").setLevel(os.environ.get(LEVEL, "INFO").upper())


@dataclass(slots=True)
class _Seen:
    since: float
    count: int = 1


class _Repeats(logging.Filter):
    """Lets the first few of many alike through; how many more there were is said at the end of their time."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler
        self._seen: dict[tuple[object, ...], _Seen] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is written now."""
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[1] if record.exc_info else None
        # what was raised where; else the text, before anything was put into it
        kind = record.name, record.levelno, fault(error) if error else record.msg
        now = time.monotonic()
        with self._lock:
            seen = self._seen.get(kind)
            if seen is None or (seen.count <= FEW and now >= seen.since + REPEAT_SECONDS):
                self._forget(now)
                self._seen[kind] = _Seen(now)
                return True
            seen.count += 1
            if seen.count == FEW + 1:
                left = max(0.0, seen.since + REPEAT_SECONDS - now)
                teller = threading.Timer(left, self._tell, (kind, record))
                teller.daemon = True
                teller.start()
            return seen.count <= FEW

    def _forget(self, now: float) -> None:
        """Those whose time is over, but for what is still to be told."""
        self._seen = {
            kind: seen
            for kind, seen in self._seen.items()
            if seen.count > FEW or now < seen.since + REPEAT_SECONDS
        }

    def _tell(self, kind: tuple[object, ...], record: logging.LogRecord) -> None:
        with self._lock:
            more = self._seen.pop(kind).count - FEW
        again = copy.copy(record)
        again.msg, again.args = "%s … repeated %d times", (record.getMessage(), more)
        again.exc_info = again.exc_text = None
        self._handler.acquire()
        try:
            self._handler.emit(again)
        finally:
            self._handler.release()


def _request(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The request whose task this is: ``Requests`` names its tasks request-SESSION:ID."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop here
        return event
    if task and task.get_name().startswith("request-"):
        session, _colon, request_id = task.get_name().removeprefix("request-").partition(":")
        event.setdefault("session", session)
        event.setdefault("request_id", request_id)
    return event


def _trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The span in which this was logged, if there are spans."""
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace import get_current_span

        context = get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"], event["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return event
