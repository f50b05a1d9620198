"""What the documents of all services allow, and what they forbid, sent through the gateway.

`python -m bench.fuzz --examples 20 --seed 1` starts an estate of its own, reads the documents that
/docs shows, and lets Schemathesis ask every operation as an administrator, a user and nobody:
examples, the bounds of each schema, and random values, valid and not. An answer must be one that is
declared, in its declared shape, and come within seconds; of 5xx only 502, 503 and 504 may be. Exits
with 1 when one is not, with the request that shows it.

`--at http://localhost:8080` asks a gateway that runs; what is there is changed and deleted.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench import terminal
from bench.shop import Client, opened, people
from bench.terminal import say
from deploy.local.site import CHECKOUT
from identity.settings import PUBLISHED_PASSWORD

FOLDER: Final = CHECKOUT / ".data" / "fuzz-report"
ROLES: Final = ("nobody", "user", "admin")

# Identity last: what is done to accounts there would end the sessions of all others.
_SERVICES: Final = ("gateway", "movie", "customer", "payment", "notification", "identity")
_OWN_IDS: Final = {"gateway": "api-gateway"}
_ANSWER_S: Final = 15
_CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "ignored_auth",
)
_PHASES: Final = ("examples", "coverage", "fuzzing")
_METHODS: Final = frozenset({"get", "put", "post", "delete", "options", "head", "patch"})
# What the gateway answers before, or instead of, a service: on every path, in this shape.
_GATEWAYS: Final = (400, 401, 403, 404, 405, 408, 413, 414, 429, 431, 502, 503, 504)
_JSON: Final = "application/json"
_MESSAGE: Final = {
    "type": "object",
    "required": ["success", "message"],
    "properties": {"success": {"const": False}, "message": {"type": "string"}},
}
_CONFIG: Final = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "501", "502", "503", "504"]
"""


def main(given: argparse.Namespace) -> int:
    """Ask everything; the exit code."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "schemathesis.toml").write_text(_CONFIG)
    failed = 0
    with _gateway(given.at) as url:
        say(terminal.machine())
        client = Client(urlsplit(url).netloc)
        for service in sorted(given.services, key=_SERVICES.index):
            document = FOLDER / f"{service}.json"
            document.write_text(json.dumps(_document(client, service)))
            for role in given.roles:
                client.leave()  # the gateway has ended a connection that rested so long
                token = _token(client, role, f"{service}{given.seed}")
                failed += _ask(given, url, document, role, token) != 0
    say(f"{failed} runs found something" if failed else "nothing was found")
    return 1 if failed else 0


@contextmanager
def _gateway(at: str) -> Iterator[str]:
    if at:
        yield at
        return
    with opened("fuzz", say, {}) as estate:
        yield estate.url("gateway")


def _document(client: Client, service: str) -> Mapping[str, Any]:
    """Read what /docs shows, and add what the gateway itself may answer to any of it."""
    name = _OWN_IDS.get(service, f"{service}-service")
    found: dict[str, Any] = client.document(f"/docs/openapi/{name}.json")
    for path, item in list(found["paths"].items()):
        for method in _METHODS & item.keys():
            answers = item[method]["responses"]
            if "text/event-stream" in json.dumps(answers):
                del item[method]  # it never ends
                continue
            for status in map(str, _GATEWAYS):
                answers[status] = _also_ours(found, answers.get(status, {}))
        if not _METHODS & item.keys():
            del found["paths"][path]
    return found


def _also_ours(document: Mapping[str, Any], answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let a declared answer be a short one of the gateway's, too."""
    declared: dict[str, Any] = dict(answer)
    if "$ref" in answer:
        name = str(answer["$ref"]).rsplit("/", 1)[1]
        declared = dict(document["components"]["responses"][name])
    content = dict(declared.get("content", {}))
    schemas = [held["schema"] for held in [content.get(_JSON)] if held and "schema" in held]
    content[_JSON] = {"schema": {"anyOf": [*schemas, _MESSAGE]}}
    return {"description": "by the gateway", **declared, "content": content}


def _token(client: Client, role: str, name: str) -> str:
    """Sign in as one who has done nothing yet."""
    if role == "nobody":
        return ""
    if role == "user":
        (person,) = people(client, 1, f"fuzz{name}")
        return person.token
    account = {"username": "admin", "password": PUBLISHED_PASSWORD}
    answer = client.ask("POST", "/api/auth/login", account)
    if answer.status != HTTPStatus.OK:
        raise RuntimeError(f"the administrator cannot sign in: {answer}")
    return str(answer.data["accessToken"])


def _ask(given: argparse.Namespace, url: str, document: Path, role: str, token: str) -> int:
    """Let Schemathesis ask all of one document; its exit code."""
    log = FOLDER / f"{document.stem}-{role}.log"
    words = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", str(document), "--url", url),
        *("--checks", ",".join(_CHECKS), "--phases", ",".join(_PHASES)),
        *("--max-examples", str(given.examples), "--seed", str(given.seed)),
        *("--request-timeout", str(_ANSWER_S), "--continue-on-failure", "--no-color"),
        *("--suppress-health-check", "all", "--warnings", "off"),
        *("--generation-database", "none"),
        # A token that was given back is none: it is asked for last, by hand.
        *("--exclude-path-regex", "logout"),
    ]
    if token:
        words += ["--header", f"Authorization: Bearer {token}"]
    with log.open("w") as file:
        done = subprocess.run(words, cwd=FOLDER, stdout=file, stderr=subprocess.STDOUT, check=False)  # noqa: S603 - words of our own
    text = log.read_text()
    say(f"  {document.stem:13} {role:7} {'ok' if not done.returncode else 'FAILED'}  {log}")
    if done.returncode:
        say(text[text.find("= FAILURES") :] if "= FAILURES" in text else text[-4000:])
    return done.returncode


if __name__ == "__main__":
    command = terminal.parser("bench.fuzz", __doc__)
    command.add_argument("--examples", type=int, default=20, help="random ones of each operation")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--services", nargs="+", choices=_SERVICES, default=_SERVICES)
    command.add_argument("--roles", nargs="+", choices=ROLES, default=ROLES)
    command.add_argument("--at", default="", help="a gateway that runs, else an estate of its own")
    terminal.run(command, main)
