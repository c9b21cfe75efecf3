"""One trace over client, node and the node that it asks; and no spans at all unless tracing is on."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys

import grpc
import grpc.aio
import pytest
from loopback import Loopback, of
from numa_client._codec import session_info
from numa_client._gen.numa.v1 import memory_service_pb2 as pb2
from numa_client._gen.numa.v1 import memory_service_pb2_grpc as pb2_grpc
from numa_client._gen.numa.v1 import types_pb2
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from numa_service.metrics.collector import NodeCollector
from numa_service.rpc.server import NodeServer
from numa_service.rpc.tracing import ENDPOINTS, Tracing, tracing_from_environment


def tracing(who: str, exporter: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(resource=Resource({"service.instance.id": who}))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def told(span: ReadableSpan) -> tuple[str, str, SpanKind]:
    return str(span.resource.attributes["service.instance.id"]), span.name.partition("/")[2], span.kind


async def test_one_trace_from_the_client_to_the_node_that_is_asked() -> None:
    exporter = InMemorySpanExporter()
    machine = Loopback("demo")
    for nid in machine.servers:
        traced = tracing(f"node-{nid}", exporter)
        server = NodeServer(machine.node(nid), machine.clock, tracing=traced, machine=machine.keeper)
        server.registry.register(NodeCollector(server))
        machine.servers[nid] = server
    await machine.start()
    spans = tracing("client", exporter).client_spans()
    async with grpc.aio.insecure_channel(machine.addresses[0].grpc, interceptors=[spans]) as channel:
        stub = pb2_grpc.MemoryServiceStub(channel)
        session = session_info(await stub.OpenSession(pb2.OpenSessionRequest(request_id="open")))
        exporter.clear()
        to_node_1 = types_pb2.Policy(mode=types_pb2.POLICY_MODE_BIND, nodes=[1])
        asked = pb2.AllocPagesRequest(**of(session), request_id="spill", count=3, policy=to_node_1)
        got = await stub.AllocPages(asked)
        assert [pages.node for pages in got.pages] == [1]
        alloc = {told(span): span for span in exporter.get_finished_spans()}
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.AllocPages(pb2.AllocPagesRequest(**of(session), request_id="none"))
    await machine.stop()
    chain = [
        ("client", "AllocPages", SpanKind.CLIENT),
        ("node-0", "AllocPages", SpanKind.SERVER),
        ("node-0", "Lookup", SpanKind.CLIENT),
        ("node-1", "Lookup", SpanKind.SERVER),
    ]
    assert alloc.keys() == set(chain)
    assert len({span.context.trace_id for span in alloc.values()}) == 1
    parents = {span.context.span_id: name for name, span in alloc.items()}
    assert alloc[chain[0]].parent is None
    for above, below in itertools.pairwise(chain):
        parent = alloc[below].parent
        assert parent is not None
        assert parents[parent.span_id] == above
    assert dict(alloc[chain[1]].attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "numa.v1.MemoryService",
        "rpc.method": "AllocPages",
        "numa.request_id": "spill",
    }
    refused = exporter.get_finished_spans()[-2:]
    assert [span.status.status_code for span in refused] == [StatusCode.ERROR] * 2
    assert all("count" in (span.status.description or "") for span in refused)


def test_off_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert tracing_from_environment("demo/node-0") is None
    monkeypatch.setenv(ENDPOINTS[0], "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing_from_environment("demo/node-0") is None


async def test_spans_go_to_the_collector_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[ExportTraceServiceRequest] = []

    async def export(request: ExportTraceServiceRequest, context: object) -> ExportTraceServiceResponse:
        received.append(request)
        return ExportTraceServiceResponse()

    method = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    collector = grpc.aio.server()
    collector.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
    port = collector.add_insecure_port("127.0.0.1:0")
    await collector.start()
    monkeypatch.setenv(ENDPOINTS[0], f"http://127.0.0.1:{port}")
    found = tracing_from_environment("demo/node-0")
    assert found
    with found.tracer.start_as_current_span("a call"):
        pass
    await asyncio.to_thread(found.provider.shutdown)
    await collector.stop(0)
    (resource,) = received[0].resource_spans
    names = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert (names["service.name"], names["service.instance.id"]) == ("numa-service", "demo/node-0")
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["a call"]


def test_nothing_of_it_is_even_imported() -> None:
    script = "import numa_service.rpc.server, sys; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
