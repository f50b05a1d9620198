"""Traces: context from and to the wire, spans to Zipkin, the correlation id beside them.

W3C trace context goes out; W3C, `b3` and `X-B3-*` come in, as with Spring's Micrometer Tracing.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import closing, contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import orjson
import structlog
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TraceFlags, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from cloud.config import Properties

log = structlog.get_logger()

correlation_id: ContextVar[str | None] = ContextVar("correlation_id", default=None)

CORRELATION = "X-Correlation-Id"

_W3C = TraceContextTextMapPropagator()
_TRACE_ID = re.compile("[0-9a-f]{32}|[0-9a-f]{16}")
_SPAN_ID = re.compile("[0-9a-f]{16}")
_B3 = re.compile(f"({_TRACE_ID.pattern})-({_SPAN_ID.pattern})(?:-([01d])(?:-{_SPAN_ID.pattern})?)?")
_YES = {"1", "d", "true"}
_PROBABILITY = 0.1  # Spring Boot's, where no source says otherwise
_RANDOM_BITS = (1 << 56) - 1
_EXPORT_TIMEOUT_S = 3.0
_wanted: ContextVar[int | None] = ContextVar("wanted_trace_id", default=None)


class _Share(Sampler):
    """Keep a share of the traces, decided by the 56 bits of an id that are random.

    OpenTelemetry's own ratio reads the lower 64 bits, of which a UUID fixes the top two: of ids
    that are UUIDs it would keep none below one half, and all above three quarters.
    """

    def __init__(self, probability: float) -> None:
        self._limit = round(probability * (_RANDOM_BITS + 1))

    def keeps(self, trace_id: int) -> bool:
        return trace_id & _RANDOM_BITS < self._limit

    def should_sample(
        self,
        parent_context: Context | None,  # noqa: ARG002 - OpenTelemetry's signature
        trace_id: int,
        name: str,  # noqa: ARG002
        kind: SpanKind | None = None,  # noqa: ARG002
        attributes: Any = None,
        *_others: Any,
        **_named: Any,
    ) -> SamplingResult:
        kept = self.keeps(trace_id)
        return SamplingResult(Decision.RECORD_AND_SAMPLE if kept else Decision.DROP, attributes)

    def get_description(self) -> str:
        return "Share"


class _Ids(RandomIdGenerator):
    """Random ids, but for a root span whose trace id was asked for."""

    def generate_trace_id(self) -> int:
        return _wanted.get() or super().generate_trace_id()


class _Zipkin(SpanExporter):
    """Zipkin v2 JSON (https://zipkin.io/zipkin-api/, `POST /api/v2/spans`)."""

    def __init__(self, endpoint: str, service: str, port: int) -> None:
        self._endpoint = endpoint
        self._local = {"serviceName": service, "port": port} if port else {"serviceName": service}
        self._away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        body = orjson.dumps([self._dump(span) for span in spans])
        try:
            status = _post(self._endpoint, body)
            fault = None if status < HTTPStatus.BAD_REQUEST else f"status {status}"
        except (OSError, HTTPException, ValueError) as error:
            fault = type(error).__name__
        self._report(fault)
        return SpanExportResult.SUCCESS if fault is None else SpanExportResult.FAILURE

    def _report(self, fault: str | None) -> None:
        """Say once that the collector is away, and once that it is back."""
        if fault and not self._away:
            log.warning("collector_away", collector="zipkin", error=fault)
        if not fault and self._away:
            log.info("collector_back", collector="zipkin")
        self._away = fault is not None

    def _dump(self, span: ReadableSpan) -> dict[str, Any]:
        ids = span.get_span_context()
        started, ended = span.start_time or 0, span.end_time or 0
        tags = {key: _tag(value) for key, value in (span.attributes or {}).items()}
        if span.status.status_code is StatusCode.ERROR:
            tags.setdefault("error", tags.get("error.type", span.status.description or "true"))
        dumped: dict[str, Any] = {
            "traceId": f"{ids.trace_id:032x}" if ids else "",
            "id": f"{ids.span_id:016x}" if ids else "",
            "name": span.name,
            "timestamp": started // 1000,
            "duration": max(1, (ended - started) // 1000),
            "localEndpoint": self._local,
            "tags": tags,
        }
        if span.kind is not SpanKind.INTERNAL:
            dumped["kind"] = span.kind.name
        if span.parent:
            dumped["parentId"] = f"{span.parent.span_id:016x}"
        if peer := tags.pop("peer.service", None):
            dumped["remoteEndpoint"] = {"serviceName": peer}
        return dumped


def _post(url: str, body: bytes) -> int:
    """Send JSON, return the status. Every process does this: `requests` would cost each 2 MB."""
    at = urlsplit(url)
    headers = {"Content-Type": "application/json"}
    if at.username:
        given = f"{unquote(at.username)}:{unquote(at.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(given.encode()).decode()}"
    kind = HTTPSConnection if at.scheme == "https" else HTTPConnection
    # One connection a batch, and so never one that the collector has closed meanwhile.
    with closing(kind(at.hostname or "", at.port, timeout=_EXPORT_TIMEOUT_S)) as connection:
        connection.request("POST", urlunsplit(("", "", at.path, at.query, "")), body, headers)
        return connection.getresponse().status


def _tag(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


class _State:
    """This process's tracer; ids are made and passed on before and without `configure`, too."""

    share = _Share(0.0)
    # Made when first used: a provider costs every process forked after it 1 MB of pages.
    provider: TracerProvider | None = None
    tracer: Tracer | None = None


def _tracer() -> Tracer:
    if _State.tracer is None:
        _State.provider = TracerProvider(
            sampler=ParentBased(_State.share), id_generator=_Ids(), shutdown_on_exit=False
        )
        _State.tracer = _State.provider.get_tracer("nozie")
    return _State.tracer


def configure(properties: "Properties") -> None:
    """Set up this process's traces; to be called after the fork, for there is a thread in it.

    Settings: `management.tracing.enabled`, `management.tracing.sampling.probability`,
    `management.zipkin.tracing.endpoint`; without an endpoint context is passed on, nothing sent.

    Raises:
        ConfigurationError: the probability is no number from 0 to 1.
    """
    enabled = properties.boolean("management.tracing.enabled", default=True)
    probability = properties.number(
        "management.tracing.sampling.probability", _PROBABILITY, minimum=0, maximum=1
    )
    endpoint = properties.text("management.zipkin.tracing.endpoint", "")
    _State.share = _Share(probability if enabled else 0.0)
    old, fresh = (
        _State.provider,
        TracerProvider(
            sampler=ParentBased(_State.share),
            id_generator=_Ids(),
            resource=Resource({"service.name": properties.application}),
            span_limits=SpanLimits(max_attribute_length=1024),
        ),
    )
    if enabled and endpoint:
        port = properties.integer("server.port", 0)
        exporter = _Zipkin(endpoint, properties.application, port)
        fresh.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
    _State.provider, _State.tracer = fresh, fresh.get_tracer("nozie")
    if old is not None:
        old.shutdown()


def flush() -> None:
    """Send what is waiting; a normal exit of the interpreter does it by itself."""
    if _State.provider is not None:
        _State.provider.force_flush()


@contextmanager
def span(
    name: str,
    kind: SpanKind = SpanKind.INTERNAL,
    *,
    attributes: Mapping[str, Any] | None = None,
    parent: Context | None = None,
    trace_id: str | None = None,
) -> Iterator[Span]:
    """Run the block in a span of its own; an exception marks it as failed, by its type alone.

    Args:
        name: low in cardinality: a route's template, never a path.
        kind: the side of the call that this is.
        attributes: OpenTelemetry's names; `peer.service` becomes Zipkin's remote endpoint.
        parent: what `extract` gave; the current span when None.
        trace_id: 32 hex digits that a new trace is to have; a parent is ignored then.
    """
    token = _wanted.set(int(trace_id, 16) if trace_id else None)
    try:
        started = _tracer().start_span(
            name, Context() if trace_id else parent, kind, attributes=attributes
        )
    finally:
        _wanted.reset(token)
    with trace.use_span(
        started, end_on_exit=True, record_exception=False, set_status_on_exception=False
    ):
        try:
            yield started
        except Exception as error:
            started.set_attribute("error.type", type(error).__qualname__)
            started.set_status(StatusCode.ERROR)
            raise


def inject(headers: MutableMapping[str, Any]) -> None:
    """Add the current context to outgoing headers: `traceparent`, and the correlation id."""
    ids = trace.get_current_span().get_span_context()
    if ids.is_valid:
        # Of the flags `sampled` alone: Brave, on the JVM's side, refuses all but 00 and 01.
        flags = ids.trace_flags & TraceFlags.SAMPLED
        headers["traceparent"] = f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{flags:02x}"
        if ids.trace_state:
            headers["tracestate"] = ids.trace_state.to_header()
    if current := correlation_id.get():
        headers.setdefault(CORRELATION, current)


def extract(headers: Mapping[str, Any]) -> Context:
    """Read the caller's context from incoming headers, whatever their case; empty without one."""
    lower = {str(name).lower(): value for name, value in headers.items()}
    found = _W3C.extract(lower, Context())
    if trace.get_current_span(found).get_span_context().is_valid:
        return found
    b3 = _B3.fullmatch(str(lower.get("b3", "")).lower())
    if b3:
        return _remote(*b3.groups())
    ids = [str(lower.get(f"x-b3-{name}", "")).lower() for name in ("traceid", "spanid")]
    if not (_TRACE_ID.fullmatch(ids[0]) and _SPAN_ID.fullmatch(ids[1])):
        return Context()
    debug = lower.get("x-b3-flags") == "1"
    return _remote(ids[0], ids[1], "d" if debug else lower.get("x-b3-sampled"))


def _remote(trace_id: str, span_id: str, sampled: str | None) -> Context:
    number = int(trace_id, 16)
    # Without a decision the caller leaves it to us.
    kept = _State.share.keeps(number) if sampled is None else sampled.lower() in _YES
    ids = SpanContext(
        number, int(span_id, 16), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED * kept)
    )
    if not ids.is_valid:
        return Context()
    return trace.set_span_in_context(trace.NonRecordingSpan(ids), Context())


def current_trace_id() -> str | None:
    """Return the trace's id, 32 hex digits, None outside of one."""
    ids = trace.get_current_span(otel.get_current()).get_span_context()
    return f"{ids.trace_id:032x}" if ids.is_valid else None


def current_span_id() -> str | None:
    """Return the span's id, 16 hex digits, None outside of one."""
    ids = trace.get_current_span(otel.get_current()).get_span_context()
    return f"{ids.span_id:016x}" if ids.is_valid else None
