"""Log lines of a process of their own, as a shipper reads them from its stdout."""

import json
import subprocess
import sys
from typing import Any

import pytest

from cloud import logging
from cloud.config import Properties
from cloud.errors import ConfigurationError

START = """
import logging as stdlib, structlog, sys, threading
from cloud import logging, tracing
from cloud.config import Properties
values = {"logging.level.com.nozie": "DEBUG", "logging.level.quiet": "ERROR"}
logging.configure(Properties.of(values, "identity-service", ("dev",)), "worker-1")
log = structlog.get_logger("identity.routes")
"""


def run(code: str, status: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run(  # noqa: S603 - our own text
        [sys.executable, "-W", "error", "-c", START + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_both_loggers_write_the_same_fields():
    lines = run("""
log.info("lease_renewed", took_ms=12, status="UP", none=None)
stdlib.getLogger("urllib3.x").error("lost %s", "it")
stdlib.getLogger("elsewhere").debug("not to be seen")
stdlib.getLogger("quiet.below").warning("not to be seen")
log.debug("seen", status=404, method="GET", **{"event.action": "x"})
""")
    ours, theirs, last = lines
    assert ours["@timestamp"].endswith("Z")
    assert ours["process.pid"] > 0
    shared = {
        "log.level": "info",
        "message": "lease_renewed",
        "ecs.version": "8.11.0",
        "service.name": "identity-service",
        "service.environment": "dev",
        "process.name": "worker-1",
        "process.thread.name": "MainThread",
        "log.logger": "identity.routes",
        "nozie.took_ms": 12,
        "nozie.status": "UP",
    }
    assert {k: v for k, v in ours.items() if k not in ("@timestamp", "process.pid")} == shared
    assert (theirs["message"], theirs["log.level"]) == ("lost it", "error")
    assert theirs.keys() <= ours.keys()
    assert last["http.response.status_code"] == 404
    assert last["http.request.method"] == "GET"
    assert last["event.action"] == "x"


def test_trace_and_correlation_ids_stand_in_every_line_within_a_span():
    inside, outside = run("""
structlog.contextvars.bind_contextvars(principal=7)
with tracing.span("x", trace_id="ab" * 16):
    token = tracing.correlation_id.set("abab")
    stdlib.getLogger("library").warning("inside")
    tracing.correlation_id.reset(token)
log.info("outside")
""")
    assert inside["trace.id"] == "ab" * 16
    assert len(inside["span.id"]) == 16
    assert inside["labels.correlation_id"] == "abab"
    assert inside["user.id"] == outside["user.id"] == 7
    assert not {"trace.id", "span.id", "labels.correlation_id"} & outside.keys()


def test_an_exception_is_three_fields():
    (line,) = run("""
try:
    raise ValueError("bad thing")
except ValueError:
    log.exception("failed")
""")
    assert line["error.type"] == "builtins.ValueError"
    assert line["error.message"] == "bad thing"
    assert "Traceback" in line["error.stack_trace"]
    assert line["log.level"] == "error"


@pytest.mark.parametrize(
    ("written", "secret"),
    [
        pytest.param('password="hunter2"', "hunter2", id="by key"),
        pytest.param('nested={"refresh_token": "hunter2"}', "hunter2", id="by key within"),
        pytest.param('url="amqp://ann:hunter2@broker:5672/"', "hunter2", id="user-info"),
        pytest.param('note="Authorization: Bearer abcdefgh.ijk"', "abcdefgh", id="bearer"),
        pytest.param('urls=["http://a:hunter2@b"]', "hunter2", id="in a list"),
        pytest.param('jwt="eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiI3In0.c2ln"', "eyJ", id="token"),
    ],
)
def test_secrets_are_masked_whoever_logs_them(written, secret):
    (line,) = run(f"log.info('told', {written})")
    assert secret not in json.dumps(line)
    assert "***" in json.dumps(line)


def test_secrets_in_an_exception_are_masked_too():
    (line,) = run("""
try:
    raise ValueError("cannot reach redis://:hunter2@host/0")
except ValueError:
    stdlib.getLogger("x").exception("redis://u:hunter2@host")
""")
    assert "hunter2" not in json.dumps(line)


@pytest.mark.parametrize(
    "value", ["'\\ud800'", "2 ** 70", "object()", "{1: {2: b'x'}}", "float('nan')", "'x' * 10 ** 6"]
)
def test_no_value_is_too_odd_for_a_line(value):
    (line,) = run(f"log.info('odd', value={value})")
    assert "nozie.value" in line
    assert len(json.dumps(line)) < 50_000


def test_what_ends_a_process_or_thread_is_a_line():
    thread, process = run(
        """
worker = threading.Thread(target=lambda: 1 / 0, name="t1")
worker.start()
worker.join()
raise RuntimeError("the end")
""",
        status=1,
    )
    assert (thread["message"], thread["error.type"]) == (
        "thread_failed",
        "builtins.ZeroDivisionError",
    )
    assert (process["message"], process["error.message"]) == ("process_failed", "the end")


def test_a_setting_that_cannot_be_used_ends_the_process_without_a_traceback():
    (line,) = run(
        "from cloud.errors import ConfigurationError\nraise ConfigurationError('x: y')", 1
    )
    assert (line["message"], line["nozie.reason"]) == ("start_refused", "x: y")
    assert "error.stack_trace" not in line


def test_a_reader_that_stalls_costs_lines_but_no_time():
    """Ten megabytes into a pipe that nobody reads: the process goes on and ends by itself."""
    code = """
for number in range(10_000):
    log.info("line", number=number, padding="x" * 1000)
print("done", file=sys.stderr)
"""
    with subprocess.Popen(  # noqa: S603 - our own text
        [sys.executable, "-c", START + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.wait(60) == 0
        out, err = process.communicate()
    assert err == b"done\n"
    lines = [json.loads(line) for line in out.splitlines() if line.endswith(b"}")]
    assert 10 < len(lines) < 10_000


def test_lines_of_many_threads_do_not_mix():
    lines = run("""
def write(number):
    for _ in range(50):
        log.info("line", number=number, padding="x" * 500)
threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
""")
    assert len(lines) == 400


def test_an_unknown_level_is_a_configuration_error():
    properties = Properties.of({"logging.level.a.b": "LOUD"}, "app")
    with pytest.raises(ConfigurationError, match=r"app: logging\.level\.a\.b is not a level"):
        logging.configure(properties, "x")


def test_new_levels_take_the_place_of_old_ones():
    lines = run("""
log.debug("first")
levels = {"logging.level.root": "WARN", "logging.level.identity": "OFF"}
logging.configure(Properties.of(levels), "w")
log.critical("second")
stdlib.getLogger("quiet").warning("third")
stdlib.getLogger("other").info("fourth")
""")
    assert [line["message"] for line in lines] == ["first", "third"]


def test_an_operators_level_goes_before_configuration_and_a_reset_restores_it():
    """A reset must not silence anything, nor lose a level that a library had set itself."""
    lines = run("""
own = stdlib.getLogger("library")
own.setLevel("ERROR")
logging.set_levels({"ROOT": "OFF", "identity": "TRACE", "library": "DEBUG", "cloud": "WARN"})
own.debug("first")
own.debug("traced") if stdlib.getLogger("identity.x").isEnabledFor(5) else None
stdlib.getLogger("elsewhere").critical("not to be seen")
stdlib.getLogger("cloud.x").info("not to be seen")
again = Properties.of({**values, "logging.level.root": "WARN"}, "identity-service", ("dev",))
logging.configure(again, "worker-1")
stdlib.getLogger("elsewhere").critical("not to be seen after a refresh either")
logging.set_levels({})
stdlib.getLogger("elsewhere").warning("second")
stdlib.getLogger("cloud.x").debug("third")
own.warning("not to be seen")
assert own.level == 40
""")
    assert [line["message"] for line in lines] == ["first", "traced", "second", "third"]


def test_levels_of_groups_are_those_of_their_members():
    levels = logging.levels_of(
        Properties.of(
            {
                "logging.level.films": "debug",
                "logging.level.movie": "WARN",
                "logging.level.sql": "OFF",
                "logging.group.films": "movie, poster",
            }
        )
    )
    assert (levels["poster"], levels["movie"], levels["sqlalchemy.engine"]) == (10, 30, 51)
    assert not {"films", "sql"} & levels.keys()


def test_a_line_stays_below_what_a_container_engine_cuts():
    (line,) = run("""
try:
    raise ValueError("é" * 40_000)
except ValueError:
    log.exception("failed", sent={"list": ["\\n" * 9_000] * 3}, path="/x")
""")
    assert len(json.dumps(line, ensure_ascii=False).encode()) < 16_384
    assert (line["message"], line["url.path"]) == ("failed", "/x")
    assert line["error.message"].startswith("é")
    assert line["error.stack_trace"].startswith("…")
    assert line["nozie.sent"].endswith("…")
