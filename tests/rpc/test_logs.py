"""Log lines of the service: JSON, each with what it is about."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from loopback import Loopback
from numa_client import NumaError, Policy, PolicyMode

from numa_service.cluster.logs import LEVEL, configure_logs
from numa_service.node import ops
from numa_service.node.node import Node


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    logger = logging.getLogger("numa_service")
    before = logger.handlers[:], logger.propagate, logger.level
    stream = io.StringIO()
    configure_logs(stream, machine="demo", node=0)
    yield stream
    logger.handlers[:], logger.propagate, logger.level = before


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

    def broken(node: Node, op: Any) -> Any:
        if isinstance(op, ops.Alloc):
            logging.getLogger("numa_service.node").warning("about to break")
            raise ZeroDivisionError("on purpose")
        return apply(node, op)

    async with await machine.client() as client, client.session(cpu=0) as session:
        monkeypatch.setattr(Node, "apply", broken)
        with pytest.raises(NumaError, match="incident"):
            await session.alloc(count=1)
        monkeypatch.undo()
        region = await session.map_region("anon", 10, Policy(PolicyMode.BIND, (0,)))
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
