"""Trace context on the wire, and spans as a collector receives them."""

import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import structlog
from opentelemetry.trace import SpanKind, get_current_span

from cloud import tracing
from cloud.config import Properties
from tests.serving import Handler, Serving

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
MANY = {"X-B3-TraceId": TRACE, "X-B3-SpanId": SPAN}


class Collector(Serving):
    """A Zipkin that keeps what it is sent; `status` is what it answers."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[dict[str, Any]] = []
        self.status = 202
        outer = self

        class Spans(Handler):
            def reply(self) -> None:
                body = json.loads(self.body())
                if outer.status == 202:
                    outer.spans += body
                self.answer(outer.status)

        super().__init__(Spans, port)
        self.endpoint = f"{self.url}/api/v2/spans"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with closing(Collector()) as started:
        yield started


@pytest.fixture(autouse=True)
def _unconfigured() -> Iterator[None]:
    yield
    tracing.configure(Properties.of({"management.tracing.sampling.probability": "0"}))


def configure(endpoint: str = "", probability: float = 1.0, enabled: str = "true") -> None:
    given = {
        "management.zipkin.tracing.endpoint": endpoint,
        "management.tracing.sampling.probability": str(probability),
        "server.port": "8083",
        "management.tracing.enabled": enabled,
    }
    tracing.configure(Properties.of(given, "payment-service"))


def test_spans_arrive_as_zipkin_reads_them(collector: Collector):
    configure(collector.endpoint)
    with tracing.span("GET /a/{id}", SpanKind.SERVER, attributes={"http.route": "/a/{id}", "n": 1}):
        with tracing.span("publish", SpanKind.PRODUCER, attributes={"peer.service": "rabbitmq"}):
            pass
        with pytest.raises(KeyError), tracing.span("inner"):
            raise KeyError("hunter2")
    tracing.flush()
    by_name = {span["name"]: span for span in collector.spans}
    outer, sent, inner = by_name["GET /a/{id}"], by_name["publish"], by_name["inner"]
    assert outer["kind"] == "SERVER"
    assert outer["localEndpoint"] == {"serviceName": "payment-service", "port": 8083}
    assert outer["tags"] == {"http.route": "/a/{id}", "n": "1"}
    assert outer["duration"] >= 1
    assert abs(outer["timestamp"] / 1e6 - time.time()) < 60
    assert "parentId" not in outer
    assert {sent["parentId"], inner["parentId"]} == {outer["id"]}
    assert {span["traceId"] for span in collector.spans} == {outer["traceId"]}
    assert (len(outer["traceId"]), len(outer["id"])) == (32, 16)
    assert sent["remoteEndpoint"] == {"serviceName": "rabbitmq"}
    assert inner["tags"] == {"error.type": "KeyError", "error": "KeyError"}
    assert "kind" not in inner
    assert "hunter2" not in json.dumps(collector.spans)


def test_a_collector_that_is_away_costs_one_line_until_it_is_back():
    taken = Collector()
    port = taken.port
    taken.close()
    configure(f"http://127.0.0.1:{port}/api/v2/spans")
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            with tracing.span("lost"):
                pass
            tracing.flush()
        again = Collector(port)
        again.status = 500
        with tracing.span("lost, too"):
            pass
        tracing.flush()
        again.status = 202
        for name in ("kept", "kept, too"):
            with tracing.span(name):
                pass
            tracing.flush()
        again.close()
    assert [line["event"] for line in lines] == ["collector_away", "collector_back"]
    assert [span["name"] for span in again.spans] == ["kept", "kept, too"]


@pytest.mark.parametrize(
    ("headers", "sampled"),
    [
        pytest.param({"traceparent": f"00-{TRACE}-{SPAN}-01"}, True, id="W3C"),
        pytest.param({"Traceparent": f"00-{TRACE}-{SPAN}-00"}, False, id="W3C, not sampled"),
        pytest.param({"b3": f"{TRACE}-{SPAN}-1"}, True, id="b3"),
        pytest.param({"B3": f"{TRACE}-{SPAN}-0-{SPAN}"}, False, id="b3 with a parent"),
        pytest.param({"b3": f"{TRACE}-{SPAN}-d"}, True, id="b3 debug"),
        pytest.param({"b3": f"{TRACE}-{SPAN}"}, True, id="b3 leaves the decision to us"),
        pytest.param({**MANY, "X-B3-Sampled": "1"}, True, id="X-B3"),
        pytest.param({**MANY, "x-b3-sampled": "0"}, False, id="X-B3, not sampled"),
        pytest.param({**MANY, "X-B3-Flags": "1"}, True, id="X-B3 debug"),
        pytest.param({"traceparent": "junk", "b3": f"{TRACE}-{SPAN}-1"}, True, id="b3 beside junk"),
        pytest.param(
            {"traceparent": f"00-{TRACE}-{SPAN}-01", "b3": f"{SPAN}-{SPAN}-0"}, True, id="W3C first"
        ),
    ],
)
def test_context_of_the_caller_is_read(headers, sampled):
    configure()
    with tracing.span("x", SpanKind.SERVER, parent=tracing.extract(headers)) as span:
        assert tracing.current_trace_id() == TRACE
        assert span.get_span_context().trace_flags.sampled is sampled
        out: dict[str, str] = {}
        tracing.inject(out)
        assert out["traceparent"].startswith(f"00-{TRACE}-{tracing.current_span_id()}-0")
        assert out["traceparent"].endswith("1" if sampled else "0")


def test_a_short_b3_trace_id_is_filled_up():
    found = tracing.extract({"b3": f"{'a' * 16}-{SPAN}-1"})
    assert get_current_span(found).get_span_context().trace_id == int("a" * 16, 16)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"traceparent": f"00-{'0' * 32}-{SPAN}-01"},
        {"traceparent": "00-x"},
        {"b3": "0"},
        {"b3": f"{'0' * 32}-{SPAN}-1"},
        {"b3": "x" * 5000},
        {"X-B3-TraceId": TRACE},
        {"X-B3-TraceId": "zz", "X-B3-SpanId": SPAN},
        {"X-B3-TraceId": f"{TRACE}-{SPAN}", "X-B3-SpanId": SPAN},
    ],
)
def test_a_context_that_makes_no_sense_starts_a_new_trace(headers):
    configure()
    with tracing.span("x", parent=tracing.extract(headers)):
        assert tracing.current_trace_id() not in (None, "0" * 32, TRACE)


def test_a_root_span_takes_the_trace_id_it_is_given():
    configure()
    wanted = uuid.uuid4()
    with tracing.span("outer"), tracing.span("x", trace_id=wanted.hex) as span:
        assert tracing.current_trace_id() == wanted.hex
        assert getattr(span, "parent", None) is None
        with tracing.span("child"):
            assert tracing.current_trace_id() == wanted.hex
    assert tracing.current_trace_id() is None


def test_the_share_that_is_kept_holds_for_ids_that_are_uuids():
    configure(probability=0.3)
    kept = 0
    for _ in range(2000):
        with tracing.span("x", trace_id=uuid.uuid4().hex) as span:
            kept += span.get_span_context().trace_flags.sampled
    assert 450 < kept < 750


def test_without_configuration_ids_are_passed_on_all_the_same():
    configure(enabled="false")
    out: dict[str, str] = {}
    with tracing.span("x") as span:
        token = tracing.correlation_id.set("c-1")
        tracing.inject(out)
        tracing.correlation_id.reset(token)
        assert not span.is_recording()
    assert out["X-Correlation-Id"] == "c-1"
    assert out["traceparent"].endswith("-00")
