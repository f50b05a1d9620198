"""Calls to the neighbours that know what somebody has paid for, by logical name.

Both calls carry the viewer's own token. A JVM customer-service ignores it and answers everybody's
records, so ownership is compared here as well (wire contract, section 3).
"""

from collections.abc import Callable, Mapping
from typing import Any

from cloud.client import Answer, ServiceClient
from cloud.errors import CloudError, UnavailableError
from cloud.security import Principal
from movie.domain import MovieId

_OK = 200
_NOT_YOURS = frozenset({400, 401, 403, 404})


class CustomerClient:
    """The viewer's customer record."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    def is_subscribed(self, viewer: Principal) -> bool:
        record = self._own(viewer)
        return record is not None and record.get("isSubscribed") is True

    def customer_id(self, viewer: Principal) -> int | None:
        record = self._own(viewer)
        found = record and record.get("id")
        return found if isinstance(found, int) else None

    def _own(self, viewer: Principal) -> Mapping[str, Any] | None:
        records = _asked(lambda: self._service.get("/api/customers", token=viewer.token))
        if not isinstance(records, list):
            return None
        return next((r for r in records if isinstance(r, dict) and _owns(viewer, r)), None)


class PaymentClient:
    """What a customer has bought."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    def has_bought(self, viewer: Principal, customer_id: int, movie_id: MovieId) -> bool:
        query = {"customerId": customer_id, "movieId": movie_id}
        path = "/api/payments/check-purchase"
        return _asked(lambda: self._service.get(path, params=query, token=viewer.token)) is True


def _owns(viewer: Principal, record: Mapping[str, Any]) -> bool:
    """Compare by the linked user where the record names one, else by e-mail."""
    if record.get("userId") is not None:
        return str(record["userId"]) == str(viewer.user_id)
    email = record.get("email")
    return bool(viewer.email) and isinstance(email, str) and _same(email, viewer.email or "")


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _asked(call: Callable[[], Answer]) -> Any:
    """Return `data` of the answer, None when the neighbour says that it is not the viewer's.

    Raises:
        UnavailableError: no answer, a late one, or one that tells nothing. Whether somebody has
            paid is then unknown, which is neither yes nor no.
    """
    try:
        answer = call()
        body = answer.json() if answer.status == _OK else None
    except (CloudError, ValueError) as error:
        raise UnavailableError("Entitlement cannot be checked right now") from error
    if answer.status in _NOT_YOURS:
        return None
    if not isinstance(body, dict):
        raise UnavailableError("Entitlement cannot be checked right now")
    return body.get("data")
