"""OpenTelemetry spans of calls to a node and of its calls to other nodes. Off unless the environment is set.

OpenTelemetry is imported only when tracing is on; when it is off no method and no channel is wrapped.
The trace context is the metadata ``traceparent`` (W3C), so that a client with any OpenTelemetry
instrumentation is part of the trace.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio

from numa_service.rpc.status import Behavior

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: Either variable turns tracing on. The exporter reads them, and the other OTEL_EXPORTER_OTLP_* variables.
ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracing_from_environment(instance: str) -> Tracing | None:
    """Tracing to an OTLP collector (gRPC), or None if no collector is named or OTEL_SDK_DISABLED is true.

    `instance` becomes the resource attribute service.instance.id.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or "numa-service"
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name, SERVICE_INSTANCE_ID: instance}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Tracing:
    """Makes spans of calls, with one tracer provider."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self.provider = provider
        self.tracer = provider.get_tracer("numa_service")
        self.propagator = TraceContextTextMapPropagator()

    def served(self, behavior: Behavior, path: str) -> Behavior:
        """Wrap a servicer's method so that each call of it is a server span."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        attributes = _attributes(path)

        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            carrier = {
                key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)
            }
            parent = self.propagator.extract(carrier)
            about = attributes | {"numa.request_id": getattr(request, "request_id", "")}
            with self.tracer.start_as_current_span(
                path[1:],
                parent,
                SpanKind.SERVER,
                about,
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                try:
                    return await behavior(request, context)
                except asyncio.CancelledError:
                    span.set_status(Status(StatusCode.ERROR, "cancelled"))
                    raise
                except BaseException:
                    span.set_status(Status(StatusCode.ERROR, _text(context.details())))
                    raise

        return serve

    def client_spans(self) -> grpc.aio.UnaryUnaryClientInterceptor:
        """A channel interceptor that makes a client span of each unary call."""
        return _ClientSpans(self)


class _ClientSpans(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        """Make the call in a client span, and send the span's context as metadata."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        path = _text(client_call_details.method)
        with self._tracing.tracer.start_as_current_span(
            path[1:], kind=SpanKind.CLIENT, attributes=_attributes(path)
        ) as span:
            carrier: dict[str, str] = {}
            self._tracing.propagator.inject(carrier)
            metadata = grpc.aio.Metadata(*(client_call_details.metadata or ()), *carrier.items())
            call = await continuation(cast("Any", client_call_details)._replace(metadata=metadata), request)
            if (code := await call.code()) is not grpc.StatusCode.OK:
                span.set_status(Status(StatusCode.ERROR, f"{code.name} {await call.details()}"))
            return call


def _attributes(path: str) -> dict[str, str]:
    _, service, method = path.split("/")
    return {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}


def _text(value: str | bytes | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""
