"""The platform on an estate of its own, and people in it who buy."""

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

from deploy.local import Estate
from deploy.local.supervisor import wait_until

SHIFT: Final = 4250
"""Of the ports: neither the tests' nor those of any other estate."""
WEBHOOK_SECRET: Final = "whsec_of_the_bench"  # noqa: S105 - of an estate that lives minutes
NO_ANSWER: Final = 0

_PASSWORD: Final = "Secret123"  # noqa: S105 - of people who do not exist
_ANSWER_S: Final = 30.0
_PAGE_SIZE: Final = 50
_SIDE_BY_SIDE: Final = 8
_NEVER: Final = 1_000_000
_QUIET: Final = {
    "management.tracing.sampling.probability": 0,
    "logging.level.root": "WARN",
    "logging.level.com.nozie": "WARN",
    "logging.level.gateway": "WARN",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; NO_ANSWER when the line broke."""

    status: int
    data: Any


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with an account and a customer record."""

    user_id: int
    customer_id: int
    token: str


@dataclass(frozen=True, slots=True)
class Item:
    """Something that is sold: a title or a plan."""

    id: str
    price: str
    days: int = 0


PLANS: Final = (Item("plan:monthly", "9.99", 30), Item("plan:yearly", "99.00", 365))


class Client:
    """HTTP to the gateway: one kept connection for each thread, each answer counted.

    Attributes:
        statuses: how many answers of each status there were.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._mine = threading.local()
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send `body` as it is when it is bytes, as JSON otherwise."""
        raw = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        every = {"Content-Type": "application/json", **(headers or {})}
        if token:
            every["Authorization"] = f"Bearer {token}"
        answer = self._send(method, path, raw, every)
        with self._lock:
            self.statuses[answer.status] += 1
        return answer

    def document(self, path: str) -> Any:
        """Read what is JSON, but no envelope.

        Raises:
            RuntimeError: there is none.
        """
        line = HTTPConnection(self._address, timeout=_ANSWER_S)
        try:
            line.request("GET", path)
            came = line.getresponse()
            text = came.read()
        finally:
            line.close()
        if came.status != HTTPStatus.OK:
            raise RuntimeError(f"{path} answers {came.status}")
        return json.loads(text)

    def leave(self) -> None:
        """Close the calling thread's connection."""
        line: HTTPConnection | None = getattr(self._mine, "line", None)
        if line is not None:
            line.close()

    def _send(
        self, method: str, path: str, raw: bytes | str | None, headers: Mapping[str, str]
    ) -> Answer:
        line: HTTPConnection | None = getattr(self._mine, "line", None)
        if line is None:
            line = self._mine.line = HTTPConnection(self._address, timeout=_ANSWER_S)
        try:
            line.request(method, path, raw, dict(headers))
            came = line.getresponse()
            text = came.read()
        except (OSError, HTTPException):
            line.close()
            return Answer(NO_ANSWER, None)
        if not came.headers.get("Content-Type", "").startswith("application/json"):
            return Answer(came.status, text)
        return Answer(came.status, json.loads(text).get("data"))


@contextmanager
def opened(
    name: str, say: Callable[[str], None], settings: Mapping[str, object]
) -> Iterator[Estate]:
    """Start an empty estate without limits of rate, `settings` being payment's; stop it after.

    Its data and logs stay until the next run, for who wants to look.
    """
    houses = ("movie", "customer")
    by_house: dict[str, Mapping[str, object]] = {
        **dict.fromkeys(houses, _QUIET),
        "gateway": {
            **_QUIET,
            "nozie.gateway.limits.user": _NEVER,
            "nozie.gateway.limits.ip": _NEVER,
            "nozie.gateway.limits.window": "1s",
            "NOZIE_GATEWAY_LOGIN_LIMIT": _NEVER,
        },
        "identity": {
            **_QUIET,
            "nozie.identity.bcrypt-cost": 4,
            "jwt.access-token-expiration": 4 * 3_600_000,
        },
        "notification": {**_QUIET, "nozie.notification.stream.limit": 2000},
        "payment": {**_QUIET, "stripe.webhook-secret": WEBHOOK_SECRET, **settings},
    }
    Estate(name, shift=SHIFT).clean()
    estate = Estate(name, say, shift=SHIFT, settings=by_house)
    try:
        estate.up()
        yield estate
    finally:
        estate.down()


def people(client: Client, count: int, name: str) -> list[Person]:
    """Sign so many people up and in."""
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        return list(pool.map(lambda number: _person(client, f"{name}{number}"), range(count)))


def _person(client: Client, name: str) -> Person:
    mail = f"{name}@example.org"
    account = {"username": name, "email": mail, "password": _PASSWORD}
    _demand(client.ask("POST", "/api/auth/register", account), HTTPStatus.CREATED)
    sign_in = {"username": name, "password": _PASSWORD}
    session = _demand(client.ask("POST", "/api/auth/login", sign_in), HTTPStatus.OK)
    token = str(session["accessToken"])
    found: list[Answer] = []

    def look() -> bool:
        found[:] = [client.ask("GET", f"/api/customers/email/{mail}", token=token)]
        return found[0].status == HTTPStatus.OK

    if not wait_until(look, 60, 0.3):
        raise RuntimeError(f"no customer record of {name}: {found}")
    return Person(int(session["userId"]), int(found[0].data["id"]), token)


def rentals(client: Client, token: str) -> list[Item]:
    """Read all titles that are sold singly off the catalogue."""
    found: list[str] = []
    number, pages = 0, 1
    while number < pages:
        number += 1
        path = f"/api/movies?page={number}&size={_PAGE_SIZE}"
        page = _demand(client.ask("GET", path, token=token), HTTPStatus.OK)
        pages = int(page["totalPages"])
        found += [item["id"] for item in page["items"] if item["accessType"] == "RENTAL"]
    return [_title(client, token, each) for each in found]


def _title(client: Client, token: str, number: str) -> Item:
    page = _demand(client.ask("GET", f"/api/movies/{number}", token=token), HTTPStatus.OK)
    return Item(number, f"{page['price']:.2f}")


def people_for(purchases: int, titles: int) -> int:
    """Tell how many people it takes, who buy each title once at most."""
    return math.ceil(purchases / titles)


def _demand(answer: Answer, wanted: HTTPStatus) -> Any:
    if answer.status != wanted:
        raise RuntimeError(f"{answer.status} instead of {wanted.value}: {answer.data!r}")
    return answer.data
