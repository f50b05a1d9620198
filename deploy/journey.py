"""One customer's way through the platform, from outside: every call goes through the gateway.

`python -m deploy.journey http://127.0.0.1:8080` walks it, tells each step with its time, and exits
with 1 and the reason at the first step that fails.
"""

import json
import queue
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import requests

Say = Callable[[str], None]
_Seen = TypeVar("_Seen")

_ANSWER_S: Final = 10.0
_EVENT_S: Final = 30.0
_PAUSE_S: Final = 0.2
_PAGE_SIZE: Final = 50


class JourneyError(Exception):
    """A step did not go as a customer expects; the text tells how."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step that went well.

    Attributes:
        name: what the customer did.
        detail: what came of it.
        took_ms: until the last answer.
    """

    name: str
    detail: str
    took_ms: float


@dataclass
class Report:
    """What a journey saw.

    Attributes:
        steps: the steps that went well, in order.
        reason: why the journey ended early; empty when it did not.
        payment_trace: trace id of the payment, as the answer's X-Correlation-Id tells it.
    """

    steps: list[Step] = field(default_factory=list)
    reason: str = ""
    payment_trace: str = ""

    def as_json(self) -> str:
        """Write it for machines."""
        steps = [
            {"step": step.name, "detail": step.detail, "took_ms": round(step.took_ms, 1)}
            for step in self.steps
        ]
        told = {"ok": not self.reason, "reason": self.reason or None, "steps": steps}
        return json.dumps({**told, "paymentTraceId": self.payment_trace})


class Push(threading.Thread):
    """The live push: server-sent events (HTML Living Standard, section 9.2), read as they come.

    Raises:
        JourneyError: the answer is no event stream.
    """

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        parts = urlsplit(url)
        connection = HTTPConnection(parts.netloc, timeout=_ANSWER_S)
        connection.request("GET", parts.path, headers={"Authorization": f"Bearer {token}"})
        self._socket: socket.socket = connection.sock
        self._answer = connection.getresponse()
        self.kind = self._answer.headers.get("Content-Type", "")
        if self._answer.status != HTTPStatus.OK or not self.kind.startswith("text/event-stream"):
            raise JourneyError(f"the stream answered {self._answer.status} {self.kind}")
        # Silence is what a stream is made of.
        self._socket.settimeout(None)

    def run(self) -> None:
        """Collect the events that carry JSON; comments keep the line open and say nothing."""
        data: list[bytes] = []
        for raw in iter(self._answer.readline, b""):
            line = raw.rstrip(b"\r\n")
            if line.startswith(b"data:"):
                data.append(line.removeprefix(b"data:").strip())
            elif not line and data:
                self.events.put(json.loads(b"\n".join(data)))
                data = []

    def hang_up(self) -> None:
        """Close the line, also while it is being read."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self.join()
        self._answer.close()
        self._socket.close()


class Customer:
    """A person with a browser: remembers tokens, and what was found on the way.

    Attributes:
        rental: the title that is read, paid for and played.
        push: the open stream of live events, once `listen` has opened it.
        report: what was seen so far.
    """

    def __init__(self, base: str, say: Say, session: requests.Session | None = None) -> None:
        self._base = base
        self._say = say
        self._session = session or requests.Session()
        self._session.trust_env = False
        self._name = f"traveller-{secrets.token_hex(5)}"
        self._password = secrets.token_urlsafe(18)
        self._tokens: dict[str, Any] = {}
        self._free: dict[str, Any] = {}
        self.rental: dict[str, Any] = {}
        self._other_rentals: list[dict[str, Any]] = []
        self._customer = 0
        self._transaction = 0
        self.push: Push | None = None
        self._notification = ""
        self.report = Report()

    @property
    def token(self) -> str:
        """The access token in use."""
        return str(self._tokens["accessToken"])

    def notifications(self) -> list[dict[str, Any]]:
        """List own notifications, newest first."""
        found: list[dict[str, Any]] = self._ask("GET", "/api/notifications")
        return found

    def walk(self) -> Report:
        """Take every step; stop at the first that fails."""
        steps: tuple[tuple[str, Callable[[], str]], ...] = (
            ("sign up", self.sign_up),
            ("sign in", self.sign_in),
            ("browse the catalogue", self.browse),
            ("search a title", self.search),
            ("read a title's page", self.read),
            ("play a free title", self.play_free),
            ("a rental is closed", self.find_closed),
            ("own customer record", self.find_record),
            ("open the live push", self.listen),
            ("pay for the rental", self.pay),
            ("the payment succeeds", self.await_success),
            ("the push arrives", self.await_push),
            ("count unread", self.count),
            ("mark as read", self.mark_read),
            ("play the rental", self.play_rental),
            ("refresh the session", self.refresh),
            ("sign out", self.sign_out),
            ("the old token is refused", self.try_old_token),
        )
        try:
            for name, act in steps:
                self._step(name, act)
        except (JourneyError, requests.RequestException) as error:
            self.report.reason = f"{name}: {error}"
        finally:
            self.leave()
        return self.report

    def leave(self) -> None:
        """Close what is open."""
        if self.push:
            self.push.hang_up()
        self._session.close()

    def _step(self, name: str, act: Callable[[], str]) -> None:
        began = time.monotonic()
        detail = act()
        step = Step(name, detail, (time.monotonic() - began) * 1000)
        self.report.steps.append(step)
        self._say(f"  {step.name:<26}{step.took_ms:8.0f} ms  {step.detail}")

    # The steps

    def sign_up(self) -> str:
        """Register a new account."""
        body = {
            "username": self._name,
            "email": f"{self._name}@example.org",
            "password": self._password,
            "fullName": "A Traveller",
            "country": "VN",
        }
        self._ask("POST", "/api/auth/register", HTTPStatus.CREATED, json=body)
        return self._name

    def sign_in(self) -> str:
        """Sign in with name and password."""
        body = {"username": self._name, "password": self._password}
        self._tokens = self._ask("POST", "/api/auth/login", json=body)
        return f"user {self._tokens['userId']}"

    def browse(self) -> str:
        """Page through the catalogue to a free title and some rentals."""
        pages = 0
        for page in self._pages():
            pages += 1
            for item in page["items"]:
                kind = item["accessType"]
                if kind == "FREE" and not self._free:
                    self._free = item
                if kind == "RENTAL":
                    self._other_rentals.append(item)
            if self._free and len(self._other_rentals) > 1:
                self.choose_another()
                return f"{page['totalItems']} titles"
        raise JourneyError(f"no FREE and two RENTAL titles on {pages} pages")

    def choose_another(self) -> None:
        """Turn to the next rental that was seen."""
        self.rental = self._other_rentals.pop(0)

    def search(self) -> str:
        """Find the rental by its name."""
        found = self._ask("GET", "/api/movies/search", params={"q": self.rental["name"]})
        if self.rental["id"] not in [item["id"] for item in found["items"]]:
            raise JourneyError(f"{self.rental['name']!r} is not found by its own name")
        return f"{found['totalItems']} for {self.rental['name']!r}"

    def read(self) -> str:
        """Read the rental's page, by id and by slug."""
        by_id = self._ask("GET", f"/api/movies/{self.rental['id']}")
        by_slug = self._ask("GET", f"/api/movies/slug/{self.rental['slug']}")
        if by_id["id"] != by_slug["id"]:
            raise JourneyError("id and slug lead to different titles")
        self.rental = by_id
        return f"{by_id['name']}, {by_id['price']} USD"

    def play_free(self) -> str:
        """Get the address of a free title."""
        return self._address_of(self._free)

    def find_closed(self) -> str:
        """See that the rental does not play before it is paid."""
        path = f"/api/movies/{self.rental['id']}/play"
        answer = self._call("GET", path)
        self._demand(answer, HTTPStatus.FORBIDDEN)
        return str(answer.json()["message"])

    def find_record(self) -> str:
        """Wait for the customer record that the sign-up brings about."""
        path = f"/api/customers/email/{self._name}@example.org"
        answer = self._until(
            lambda: self._call("GET", path),
            lambda answer: answer.status_code == HTTPStatus.OK,
            "the customer record does not appear",
        )
        self._customer = answer.json()["data"]["id"]
        return f"customer {self._customer}"

    def listen(self) -> str:
        """Open the live push, which stays open."""
        self.push = Push(f"{self._base}/api/notifications/stream", self.token)
        self.push.start()
        return self.push.kind

    def pay(self) -> str:
        """Pay for the rental."""
        body = {
            "customerId": self._customer,
            "movieId": self.rental["id"],
            "amount": self.rental["price"],
            "currency": "usd",
        }
        answer = self._call(
            "POST",
            "/api/payments/create",
            json=body,
            headers={"Idempotency-Key": secrets.token_hex(16)},
        )
        self._demand(answer, HTTPStatus.CREATED)
        self._transaction = answer.json()["data"]["transactionId"]
        trace = answer.headers.get("X-Correlation-Id", "")
        self.report.payment_trace = trace.replace("-", "")
        return f"transaction {self._transaction}, correlation id {trace}"

    def await_success(self) -> str:
        """Look until the provider has decided."""
        seen: list[str] = []

        def look() -> str:
            status = self._ask("GET", f"/api/payments/transaction/{self._transaction}")["status"]
            if status not in seen:
                seen.append(status)
            return str(status)

        last = self._until(look, lambda status: status != "pending", "it stays pending")
        if last != "succeeded":
            raise JourneyError(f"the payment is {last}")
        return ", then ".join(seen)

    def await_push(self) -> str:
        """Wait for the push about the rental."""
        wanted = f"movie:{self.rental['id']}"
        limit = time.monotonic() + _EVENT_S
        while self.push:
            try:
                event = self.push.events.get(timeout=max(limit - time.monotonic(), 0.01))
            except queue.Empty:
                raise JourneyError(f"no push about {wanted} in {_EVENT_S:.0f} s") from None
            if event.get("deepLink") == wanted:
                self._notification = event["id"]
                break
        return str(event["title"])

    def count(self) -> str:
        """Count what is unread."""
        unread = self._unread()
        if unread < 1:
            raise JourneyError("nothing is unread")
        return f"{unread} unread"

    def mark_read(self) -> str:
        """Mark the pushed notification as read."""
        before = self._unread()
        self._ask("PATCH", f"/api/notifications/{self._notification}/read")
        after = self._unread()
        if after != before - 1:
            raise JourneyError(f"{before} unread before, {after} after")
        return f"{after} unread"

    def play_rental(self) -> str:
        """Play what was paid for."""
        return self._address_of(self.rental)

    def refresh(self) -> str:
        """Trade the refresh token for a new pair."""
        before = self._tokens["refreshToken"]
        self._tokens = self._ask("POST", "/api/auth/refresh", json={"refreshToken": before})
        if self._tokens["refreshToken"] == before:
            raise JourneyError("the refresh token was not rotated")
        return "a new pair of tokens"

    def sign_out(self) -> str:
        """End the session."""
        body = {"refreshToken": self._tokens["refreshToken"]}
        self._ask("POST", "/api/auth/logout", json=body)
        return "session ended"

    def try_old_token(self) -> str:
        """See that the token of the ended session is refused."""
        answer = self._call("GET", "/api/auth/me")
        self._demand(answer, HTTPStatus.UNAUTHORIZED)
        return str(answer.json()["message"])

    # What steps are made of

    def _pages(self) -> Iterator[dict[str, Any]]:
        number = 0
        while True:
            number += 1
            params = {"page": number, "size": _PAGE_SIZE}
            page = self._ask("GET", "/api/movies", params=params)
            yield page
            if number >= page["totalPages"]:
                return

    def _address_of(self, movie: dict[str, Any]) -> str:
        found = self._ask("GET", f"/api/movies/{movie['id']}/play")
        address = found["m3u8Url"] or found["embedUrl"]
        if not address:
            raise JourneyError(f"{movie['name']!r} has no address to play")
        return str(address)

    def _unread(self) -> int:
        counted = self._ask("GET", f"/api/notifications/{self._customer}/count")
        return int(counted["unreadCount"])

    def _ask(self, method: str, path: str, wanted: HTTPStatus = HTTPStatus.OK, **more: Any) -> Any:
        """Call, demand a status, and return what the envelope holds."""
        answer = self._call(method, path, **more)
        self._demand(answer, wanted)
        return answer.json()["data"]

    def _call(self, method: str, path: str, **more: Any) -> requests.Response:
        headers = more.pop("headers", {})
        if self._tokens:
            headers["Authorization"] = f"Bearer {self.token}"
        url = f"{self._base}{path}"
        return self._session.request(method, url, headers=headers, timeout=_ANSWER_S, **more)

    def _demand(self, answer: requests.Response, wanted: HTTPStatus) -> None:
        if answer.status_code == wanted:
            return
        asked = f"{answer.request.method} {answer.request.path_url}"
        raise JourneyError(
            f"{asked} answered {answer.status_code} instead of {wanted.value}: {answer.text[:300]}"
        )

    def _until(
        self, look: Callable[[], _Seen], holds: Callable[[_Seen], bool], reason: str
    ) -> _Seen:
        limit = time.monotonic() + _EVENT_S
        while not holds(seen := look()):
            if time.monotonic() > limit:
                raise JourneyError(f"{reason} in {_EVENT_S:.0f} s")
            time.sleep(_PAUSE_S)  # noqa: TID251 - a customer looks again a little later
        return seen


def run(base: str, say: Say, *, as_json: bool = False) -> int:
    """Walk once; give the exit code."""
    began = time.monotonic()
    report = Customer(base, (lambda _line: None) if as_json else say).walk()
    if as_json:
        say(report.as_json())
    elif report.reason:
        say(f"  FAILED at {report.reason}")
    else:
        say(f"  {'all of it':<26}{(time.monotonic() - began) * 1000:8.0f} ms")
    return 1 if report.reason else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], print, as_json="--json" in sys.argv))
