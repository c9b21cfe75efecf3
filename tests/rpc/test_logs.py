"""Log lines of the service: JSON, each with its machine, node, request and trace."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from loopback import Loopback
from numa_client import NumaError, Policy, PolicyMode

from numa_service.cluster import logs
from numa_service.cluster.logs import FEW, LEVEL, configure_logs
from numa_service.node import ops
from numa_service.node.node import Node


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    loggers = [logging.getLogger(name) for name in ("numa_service", "aiohttp", "asyncio", "grpc")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    stream = io.StringIO()
    configure_logs(stream, machine="demo", node=0)
    yield stream
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.propagate, logger.level = handlers, propagate, level


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_a_json_object(written: io.StringIO) -> None:
    of_ray = {"_ray_said": 1}  # Ray's record factory adds such in its processes
    logging.getLogger("numa_service.rpc.leases").info(
        "node %d: %s", 3, "said", extra={"session": 7, **of_ray}
    )
    logging.getLogger("numa_service.rpc.leases").debug("not at this level")
    (line,) = lines(written)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "machine": "demo",
        "node": 0,
        "session": 7,
        "event": "node 3: said",
        "level": "info",
        "logger": "numa_service.rpc.leases",
    }


async def test_an_internal_error_names_its_request(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Loopback("demo")
    await machine.start()
    apply = Node.apply
    breaking: type[ops.Op[Any]] = ops.Alloc

    def broken(node: Node, op: Any) -> Any:
        if isinstance(op, breaking):
            logging.getLogger("numa_service.node").warning("about to break")
            raise ZeroDivisionError("on purpose")
        return apply(node, op)

    async with await machine.client() as client, client.session(cpu=0) as session:
        monkeypatch.setattr(Node, "apply", broken)
        with pytest.raises(NumaError, match="incident"):
            await session.alloc(count=1)
        monkeypatch.undo()
        # what comes after another node's answer is done in the request's own task
        breaking = ops.FillRegion
        region = await session.map_region("anon", 10, Policy(PolicyMode.BIND, (2,)))
        monkeypatch.setattr(Node, "apply", broken)
        with pytest.raises(NumaError, match="incident"):
            await region.touch(0, 10)
        monkeypatch.undo()
    await machine.stop()
    errors = [line for line in lines(written) if line["level"] == "error"]
    assert len(errors) == 2
    for error in errors:
        assert error["request_id"]
        assert error["incident"] in error["event"]
        assert "ZeroDivisionError: on purpose" in error["exception"]
    # a line from within the task of a request: the task says whose it is
    *_, inside = [line for line in lines(written) if line["event"] == "about to break"]
    assert inside["request_id"] == errors[1]["request_id"]
    assert int(inside["session"]) > 0


async def test_errors_that_repeat_are_counted(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that causes errors all day does not fill the disk; the incident it is told is in the log."""
    monkeypatch.setattr(logs, "REPEAT_SECONDS", 2.0)
    apply = Node.apply

    def broken(node: Node, op: Any) -> Any:
        if isinstance(op, ops.Alloc):
            raise ZeroDivisionError("on purpose")
        return apply(node, op)

    machine = Loopback("demo")
    await machine.start()
    told: set[str] = set()
    async with await machine.client() as client, client.session(cpu=0) as session:
        monkeypatch.setattr(Node, "apply", broken)
        for _ in range(100):
            with pytest.raises(NumaError, match="incident") as refused:
                await session.alloc(count=1)
            told.add(str(refused.value).rpartition("incident ")[2].rstrip(")"))
        monkeypatch.undo()
    await machine.stop()

    def count() -> int:
        found = [re.search(r" … repeated (\d+) times$", line["event"]) for line in errors()]
        return sum(int(times[1]) if times else 1 for times in found)

    def errors() -> list[dict[str, Any]]:
        return [line for line in lines(written) if line["level"] == "error"]

    async with asyncio.timeout(30):
        while count() < 100:
            await asyncio.sleep(0.05)
    assert count() == 100
    tracebacks = [line for line in errors() if "exception" in line]
    assert FEW <= len(tracebacks) < 50
    assert {line["incident"] for line in errors()} == told
    assert len(told) == 1


def test_what_is_not_alike_is_written(written: io.StringIO) -> None:
    logger = logging.getLogger("numa_service.x")
    for what in ("one", "other", "third"):
        for number in range(10):
            logger.warning(f"{what} of %d", number)  # a text of its own each
            logger.info("all of them: %d", number)
        try:
            raise ValueError(what)
        except ValueError:
            logger.exception("a text with no end: %s", object())
    written_lines = lines(written)
    assert [line["event"] for line in written_lines if line["level"] == "warning"] == [
        f"{what} of {number}" for what in ("one", "other", "third") for number in range(FEW)
    ]
    assert sum(line["level"] == "info" for line in written_lines) == 30
    assert sum(line["level"] == "error" for line in written_lines) == 3


def test_for_people_on_a_terminal(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv(LEVEL, "warning")
    terminal = Terminal()
    configure_logs(terminal, machine="demo")
    logging.getLogger("numa_service.x").info("quiet")
    logging.getLogger("numa_service.x").warning("loud")
    (line,) = terminal.getvalue().splitlines()
    assert "loud" in line
    assert not line.startswith("{")
