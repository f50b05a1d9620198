"""Calls to the customer records and to payment, by logical name."""

import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any, Final

from cloud.client import Answer, ServiceClient
from cloud.errors import UpstreamError
from cloud.security import Principal
from notification.domain import CustomerId, UserId

_MOST_KEPT: Final = 10_000


class CustomerClient:
    """Customer records, as customer-service answers them, Python or JVM; answers are kept briefly.

    A JVM service returns every record to everybody, so ownership is compared here as well.

    Args:
        voucher: signs a token for a user who is not there to show his own.
    """

    def __init__(
        self, service: ServiceClient, kept: timedelta, voucher: Callable[[UserId], str]
    ) -> None:
        self._service = service
        self._voucher = voucher
        self._kept_s = kept.total_seconds()
        self._answers: dict[object, tuple[float, Any]] = {}

    def owns(self, caller: Principal, customer_id: CustomerId) -> bool:
        """Tell whether the record is linked to the caller.

        Raises:
            UnavailableError: nobody answers.
        """
        key = (caller.user_id, customer_id)
        known = self._known(key)
        if known is None:
            record = _data(self._service.get("/api/customers/{id}", values={"id": customer_id}))
            known = self._keep(key, record is not None and _is_linked(record, caller))
        return bool(known)

    def owned_by(self, caller: Principal) -> frozenset[CustomerId]:
        """Find the records linked to the caller, by his e-mail address.

        Raises:
            UnavailableError: nobody answers.
        """
        if caller.email is None:
            return frozenset()
        key = caller.user_id
        known: frozenset[CustomerId] | None = self._known(key)
        if known is None:
            path = "/api/customers/email/{email}"
            record = _data(self._service.get(path, values={"email": caller.email}))
            mine = record is not None and _is_linked(record, caller)
            known = frozenset({CustomerId(int(record["id"]))} if record and mine else ())
            self._keep(key, known)
        return known

    def find_email(self, user_id: UserId | None, customer_id: CustomerId | None) -> str | None:
        """Return the address that the customer record names; None when there is none to be seen.

        Raises:
            UnavailableError: nobody answers.
        """
        token = None if user_id is None else self._voucher(user_id)
        path = "/api/customers" if customer_id is None else "/api/customers/{id}"
        if token is None and customer_id is None:
            return None
        answer = self._service.get(path, values={"id": customer_id or 0}, token=token)
        record = _data(answer, several=customer_id is None)
        return str(record["email"]) if record and record.get("email") else None

    def _known(self, key: object) -> Any:
        until, answer = self._answers.get(key, (0.0, None))
        return answer if until > time.monotonic() else None

    def _keep(self, key: object, answer: Any) -> Any:
        if len(self._answers) >= _MOST_KEPT:
            self._answers.clear()
        self._answers[key] = (time.monotonic() + self._kept_s, answer)
        return answer


class PaymentClient:
    """Transactions, as a JVM payment-service answers anybody. Ours is never asked: it tells."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    def find_status(self, transaction_id: int) -> str | None:
        """Return the transaction's status in lower case; None when there is none to be seen.

        Raises:
            UnavailableError: nobody answers.
        """
        answer = self._service.get(
            "/api/payments/transaction/{id}", values={"id": transaction_id}, token=None
        )
        data = _data(answer)
        return None if data is None else str(data.get("status")).lower()


def _is_linked(record: Mapping[str, Any], caller: Principal) -> bool:
    if record.get("userId") is not None:
        return str(record["userId"]) == str(caller.user_id)
    email = record.get("email")
    return bool(email and caller.email) and str(email).casefold() == str(caller.email).casefold()


def _data(answer: Answer, *, several: bool = False) -> Mapping[str, Any] | None:
    """Return `data` of an envelope, or the first of `several`.

    None stands for a record that is not there, or not for us.

    Raises:
        UpstreamError: what came is no answer of that service.
    """
    if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return None
    body = answer.json() if answer.status == HTTPStatus.OK else None
    data = body.get("data") if isinstance(body, dict) else None
    if several and isinstance(data, list):
        data = data[0] if data else {}
    if not isinstance(data, dict):
        raise UpstreamError(f"a service answered {answer.status} without data")
    return data
