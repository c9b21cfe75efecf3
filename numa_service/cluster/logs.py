"""Logs of the service's processes: one JSON object a line, or coloured text on a terminal.

Modules log with :mod:`logging`. The machine, node, request and trace of a line are added when the line is
written, so that requests that log nothing pay nothing. Of warnings and errors that repeat, only a few are
written and the others are counted, so that a client that causes errors all day cannot fill a disk.
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

#: Environment variable with the log level: DEBUG, INFO, WARNING or ERROR.
LEVEL = "NUMA_SERVICE_LOG_LEVEL"
#: At most FEW warnings or errors that are alike are written within REPEAT_SECONDS.
FEW = 3
REPEAT_SECONDS = 60.0
#: Our own logger, and those of libraries whose errors our clients can cause.
_LOGGERS = ("numa_service", "aiohttp", "asyncio", "grpc")


def configure_logs(stream: TextIO | None = None, **about: object) -> None:
    """Have numa_service and its servers log to `stream` (default: stderr), with `about` in every line."""
    stream = stream or sys.stderr

    def who(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        # Ray adds fields of its own to every record of its processes; nobody reads them
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
    """Lets the first FEW of records that are alike through, and logs at the end how many more there were."""

    def __init__(self, handler: logging.Handler) -> None:
        super().__init__()
        self._handler = handler
        self._seen: dict[tuple[object, ...], _Seen] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written now."""
        if record.levelno < logging.WARNING:
            return True
        error = record.exc_info[1] if record.exc_info else None
        # alike: errors of one type from one place; otherwise the same message before its arguments are filled
        # in
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
        """Drop kinds of records whose REPEAT_SECONDS are over and whose count is not still to be logged."""
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
    """Add session and request id if a request's task logs: ``Requests`` names tasks request-SESSION:ID."""
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
    """Add the ids of the span in which the line was logged, if tracing is on."""
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace import get_current_span

        context = get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"], event["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return event
