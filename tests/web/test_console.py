"""The console's server: its answers, who gets them, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from consoled import Consoled

from numa_service.web import console
from numa_service.web.console import MAX_VIEWERS, ConsoleServer
from numa_service.web.options import ConsoleOptions


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


def origin(url: str) -> dict[str, str]:
    return {"Origin": url.rstrip("/")}


async def pushes(response: aiohttp.ClientResponse) -> AsyncIterator[Any]:
    async for line in response.content:
        if line.startswith(b"data: "):
            yield json.loads(line[6:])


async def test_every_file_of_the_page_is_served_and_nothing_else(
    consoled: Consoled, http: aiohttp.ClientSession
) -> None:
    page = await (await http.get(consoled.url)).text()
    linked = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert {"main.js", "console.css", "icon.svg"} <= set(linked)
    assert not any("//" in link for link in linked)
    seen, wanted = set(), linked
    while wanted:
        name = wanted.pop()
        response = await http.get(f"{consoled.url}{name}")
        assert response.status == 200, name
        seen.add(name)
        wanted += [
            found for found in re.findall(r'from "\./([\w.]+)"', await response.text()) if found not in seen
        ]
    assert "picture.js" in seen
    for path in ("missing.js", "static/main.js", "../console.py", "%2e%2e/console.py", "console.py"):
        assert (await http.get(f"{consoled.url}{path}")).status == 404


async def test_no_script_but_ours_may_run(consoled: Consoled, http: aiohttp.ClientSession) -> None:
    for path in ("", "main.js", "api/machine", "api/nothing"):
        headers = (await http.get(f"{consoled.url}{path}")).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    page = await (await http.get(consoled.url)).text()
    assert re.findall(r"<script(?![^>]*src=)", page) == []
    assert re.findall(r"\s(?:style|on\w+)=", page) == []


async def test_names_of_others_are_refused(consoled: Consoled, http: aiohttp.ClientSession) -> None:
    """By DNS rebinding a page of rebound.example can reach the loopback interface, but sends its own name."""
    for path in ("", "api/machine", "api/feed"):
        for host in ("rebound.example", "1.2.3.4", "[::2]", "127.0.0.1.rebound.example", "[", "a@localhost"):
            response = await http.get(f"{consoled.url}{path}", headers={"Host": host})
            assert response.status == 403, host
            assert "127.0.0.1" in await response.text()
            assert "Content-Security-Policy" in response.headers
    for host in ("localhost", "LOCALHOST:80", "127.0.0.1:1", "[::1]", "[0:0::1]:9"):
        assert (await http.get(f"{consoled.url}api/machine", headers={"Host": host})).status == 200, host


async def test_the_address_that_a_request_came_to_is_a_name(
    consoled: Consoled, http: aiohttp.ClientSession
) -> None:
    """This matters to a console that listens on every interface."""
    other = ConsoleServer(consoled.info, lambda: "", list, ConsoleOptions(host="0.0.0.0"))
    url = (await other.start()).replace("0.0.0.0", "127.0.0.2")
    assert (await http.get(url)).status == 200
    assert (await http.get(url, headers={"Host": "127.0.0.3"})).status == 403
    await other.stop()


async def test_the_machine_and_its_boot(consoled: Consoled, http: aiohttp.ClientSession) -> None:
    machine = await (await http.get(f"{consoled.url}api/machine")).json()
    assert machine["distances"] == [list(row) for row in consoled.spec.distances]
    assert machine["sockets"] == [[0, 2], [1]]
    assert machine["writable"] is False
    boot = await (await http.get(f"{consoled.url}api/boot")).json()
    assert [step["function"] for step in boot][-1] == "kswapd_init"
    zone = await (await http.get(f"{consoled.url}api/zone?node=0&zone=DMA32")).json()
    assert sum(sum(orders) for orders in zone["free_area"].values())
    assert (await http.get(f"{consoled.url}api/zone?node=0&zone=Nowhere")).status == 422
    endless = "node=" + "9" * 5000
    for query in (endless, "node=x", "node=0", "zone=DMA", "node=-1&zone=DMA", "node=0&zone=%ff"):
        response = await http.get(f"{consoled.url}api/zone?{query}")
        assert response.status == 422, query
        assert (await response.json())["error"]


async def test_a_push_has_what_changed_and_only_that(consoled: Consoled, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{consoled.url}api/feed") as response:
        stream = pushes(response)
        known: set[str] = set()
        while known != {"0", "1", "2"}:
            known |= set((await anext(stream))["n"])
        client = await consoled.client()
        async with client, client.session(cpu=0) as session:
            await session.alloc(count=100)
            held: dict[str, int] = {}
            while held.get("0") != 100:
                changed = (await anext(stream))["n"]
                assert "1" not in changed
                held |= {nid: node["h"] for nid, node in changed.items()}


async def test_so_many_viewers_and_no_more(
    consoled: Consoled, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_VIEWERS <= 100
    monkeypatch.setattr(console, "MAX_VIEWERS", 2)
    monkeypatch.setattr(console, "ALIVE_SECONDS", 0.1)
    first = await http.get(f"{consoled.url}api/feed")
    second = await http.get(f"{consoled.url}api/feed")
    assert (await http.get(f"{consoled.url}api/feed")).status == 503
    assert consoled.console.feed.watchers == 2
    first.close()
    async with asyncio.timeout(30):
        while (again := await http.get(f"{consoled.url}api/feed")).status != 200:
            await asyncio.sleep(0.05)
    for response in (second, again):
        response.close()
    async with asyncio.timeout(30):
        while consoled.console.feed.watchers:
            await asyncio.sleep(0.05)


async def test_explain_gives_back_and_reclaims_nothing(
    consoled: Consoled, http: aiohttp.ClientSession
) -> None:
    asked = {"cpu": 0, "order": 3, "gfp": "GFP_KERNEL", "policy": "bind:2"}
    response = await http.post(f"{consoled.url}api/explain", json=asked, headers=origin(consoled.url))
    answer = await response.json()
    assert answer["placement"] == [[2, 1]]
    assert "2:DMA32" in answer["text"]
    assert "RECLAIM" not in answer["text"].splitlines()[0]
    assert "GFP_KERNEL" not in answer["text"].splitlines()[0]
    assert not any(node.held_pages() for node in map(consoled.node, (0, 1, 2)))
    consoled.check()
    for wrong in ({"order": 11}, {"order": "1"}, {"cpu": 99}, {"gfp": "GFP_WHAT"}, {"policy": "bind:9"}):
        response = await http.post(
            f"{consoled.url}api/explain", json=asked | wrong, headers=origin(consoled.url)
        )
        assert response.status == 422, wrong
        assert (await response.json())["error"]


#: Bodies that no page of ours sends.
HOSTILE = {
    "deep": "[" * 15_000,
    "deep in a field": '{"order":' + '{"a":' * 3_000,
    "digits": '{"order":' + "9" * 5_000 + "}",
    "huge range": '{"policy":"bind:0-99999999999"}',
    "surrogate": '{"gfp":"\\ud800"}',
    "not UTF-8": b'{"gfp":"\xff\xfe"}',
    "NUL": "\0",
    "nothing": "",
    "list": "[]",
    "string": '"order"',
    "null": "null",
    "bool": '{"order":true}',
    "float": '{"order":1.0}',
    "negative": '{"cpu":-1}',
    "other field": '{"__proto__":{}}',
    "wrong types": '{"gfp":[],"policy":{},"key":1,"value":null,"all":7}',
    "long": '{"policy":"bind:' + "0," * 5_000 + '0"}',
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE.keys())
async def test_any_body_is_answered_with_what_is_wrong_with_it(
    writable: Consoled,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    body: str | bytes,
) -> None:
    headers = {**origin(writable.url), "Content-Type": "application/json"}
    for path in ("explain", "alloc", "free", "sysctl"):
        response = await http.post(f"{writable.url}api/{path}", data=body, headers=headers)
        assert response.status == 422, path
        error = (await response.json())["error"]
        assert error
        assert len(error.splitlines()) == 1
        assert "Content-Security-Policy" in response.headers
    # a line at most each, no traceback
    assert not any(record.exc_info for record in caplog.records)
    assert max((len(record.getMessage()) for record in caplog.records), default=0) < 300
    assert not writable.node(0).held_pages()


async def test_what_is_wrong_with_a_body_is_named(writable: Consoled, http: aiohttp.ClientSession) -> None:
    async def error(path: str, **body: Any) -> str:
        response = await http.post(f"{writable.url}api/{path}", json=body, headers=origin(writable.url))
        assert response.status == 422
        return str((await response.json())["error"])

    assert await error("explain", order=11) == "order: Input should be less than 11"
    assert await error("explain", orders=1) == "orders: Extra inputs are not permitted"
    assert await error("explain", gfp="GFP_WHAT") == "gfp: unknown gfp flag 'GFP_WHAT'"
    assert (await error("explain", policy="bind:x")).startswith("policy 'bind:x'")
    assert await error("alloc", count=0) == "count: Input should be greater than or equal to 1"
    assert await error("sysctl", key="vm.swappiness") == "value: Field required"


async def test_an_error_of_ours_is_answered_and_one_line_in_the_log(
    writable: Consoled,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever exception a body causes in an action, the answer is not 500."""

    async def explain(*_: object) -> dict[str, Any]:
        raise KeyError("on purpose")

    monkeypatch.setattr(writable.console._actions, "explain", explain)
    response = await http.post(f"{writable.url}api/explain", json={}, headers=origin(writable.url))
    assert (response.status, await response.json()) == (
        422,
        {"error": "that cannot be answered: KeyError: 'on purpose'"},
    )
    monkeypatch.setattr(writable.console, "_machine", lambda: 1 // 0)
    response = await http.get(f"{writable.url}api/machine")
    assert response.status == 500
    assert "Content-Security-Policy" in response.headers
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("WARNING", None)] * 2


async def test_what_is_no_http_is_one_line_in_the_log(
    consoled: Consoled, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = consoled.url.removeprefix("http://").rstrip("/").split(":")
    for request in (
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    ):
        caplog.clear()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request + b"\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.")
        writer.close()
        async with asyncio.timeout(30):
            while not caplog.records:
                await asyncio.sleep(0.01)
        [record] = caplog.records
        assert record.getMessage().startswith("no HTTP: ")
        assert len(record.getMessage()) < 300
        assert not record.exc_info


async def test_every_answer_has_the_headers(writable: Consoled, http: aiohttp.ClientSession) -> None:
    answers = [
        await http.get(f"{writable.url}nothing"),
        await http.put(f"{writable.url}api/alloc"),
        await http.post(f"{writable.url}api/alloc"),
        await http.get(writable.url, headers={"Expect": "much"}),
        await http.post(
            f"{writable.url}api/alloc",
            data=b" " * 100_000,
            headers={**origin(writable.url), "Content-Type": "application/json"},
        ),
    ]
    assert [answer.status for answer in answers] == [404, 405, 403, 417, 413]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_who_may_post(writable: Consoled, http: aiohttp.ClientSession) -> None:
    url, asked = f"{writable.url}api/alloc", {"cpu": 0, "order": 0, "count": 5}
    mine = origin(writable.url)["Origin"]
    for theirs in (None, "http://elsewhere.example", "null", mine.replace("http:", "https:"), f"{mine}0"):
        headers = {"Origin": theirs} if theirs else {}
        assert (await http.post(url, json=asked, headers=headers)).status == 403, theirs
    plain = await http.post(
        url, data=json.dumps(asked), headers={**origin(writable.url), "Content-Type": "text/plain"}
    )
    assert plain.status == 403
    big = await http.post(url, json={"gfp": "x" * 100_000}, headers=origin(writable.url))
    assert big.status == 413
    assert not writable.node(0).held_pages()


async def test_a_console_is_read_only_unless_started_otherwise(
    consoled: Consoled, http: aiohttp.ClientSession
) -> None:
    for path in ("alloc", "free", "sysctl"):
        response = await http.post(
            f"{consoled.url}api/{path}",
            json={"cpu": 0, "key": "vm.swappiness", "value": "1"},
            headers=origin(consoled.url),
        )
        assert response.status == 404
    assert not consoled.node(0).held_pages()


async def test_a_writable_one_allocates_frees_and_tunes(
    writable: Consoled, http: aiohttp.ClientSession
) -> None:
    async def post(path: str, **body: Any) -> Any:
        response = await http.post(f"{writable.url}api/{path}", json=body, headers=origin(writable.url))
        return await response.json()

    assert await post("alloc", cpu=2, order=1, count=8) == {"pages_by_node": [[1, 16]], "held": 16}
    assert writable.node(1).held_pages() == 16
    assert await post("free", all=True) == {"freed": 16, "held": 0}
    assert writable.node(1).held_pages() == 0
    assert await post("sysctl", key="vm.swappiness", value="7") == {"note": ""}
    unmodelled = await post("sysctl", key="vm.zone_reclaim_mode", value="7")
    assert "vm.zone_reclaim_mode = 7 is kept and shown, and changes nothing else here" in unmodelled["note"]
    assert writable.node(2).machine.sysctls.get("vm.swappiness") == "7"
    assert "error" in await post("sysctl", key="vm.nothing", value="7")
    await post("alloc", cpu=0, order=0, count=4)
    await writable.console.stop()
    assert writable.node(0).held_pages() == 0
