"""Logs of the service's processes: one JSON object a line, or for people when they look (a terminal).

Modules log with :mod:`logging` as everywhere. What a line needs beside its text (machine, node, the
request, the trace) is put in when it is written: requests pay nothing for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

#: DEBUG, INFO, WARNING or ERROR.
LEVEL = "NUMA_SERVICE_LOG_LEVEL"


def configure_logs(stream: TextIO | None = None, **about: object) -> None:
    """Everything that numa_service logs goes to `stream` (stderr); `about` is in every line."""
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
    logger = logging.getLogger("numa_service")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(os.environ.get(LEVEL, "INFO").upper())


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
