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
            known = self._keep(
                key, record is not None and _is_linked(record, caller.user_id, caller.email)
            )
        return bool(known)

    def owned_by(self, caller: Principal) -> frozenset[CustomerId]:
        """Find the records linked to the caller, whatever address they name.

        Raises:
            UnavailableError: nobody answers.
        """
        key = caller.user_id
        known: frozenset[CustomerId] | None = self._known(key)
        if known is None:
            # His address first: the list of a JVM service is everybody's, and may be long.
            found = self._by_email(caller) or self._in_list(
                caller.user_id, caller.email, caller.token
            )
            known = frozenset({CustomerId(int(found["id"]))} if found else ())
            self._keep(key, known)
        return known

    def _by_email(self, caller: Principal) -> Mapping[str, Any] | None:
        if caller.email is None:
            return None
        path = "/api/customers/email/{email}"
        found = _data(self._service.get(path, values={"email": caller.email}))
        return found if found and _is_linked(found, caller.user_id, caller.email) else None

    def _in_list(self, user_id: int, email: str | None, token: str) -> Mapping[str, Any] | None:
        """Find the record among those that the bearer is shown, whatever address it names."""
        answer = self._service.get("/api/customers", token=token)
        body = answer.json() if answer.status == HTTPStatus.OK else None
        records = body.get("data") if isinstance(body, dict) else None
        if not isinstance(records, list):
            raise UpstreamError(f"a service answered {answer.status} without data")
        records = (one for one in records if isinstance(one, dict))
        return next((one for one in records if _is_linked(one, user_id, email)), None)

    def find_email(self, user_id: UserId | None, customer_id: CustomerId | None) -> str | None:
        """Return the address that the customer record names; None when there is none to be seen.

        Raises:
            UnavailableError: nobody answers.
        """
        token = None if user_id is None else self._voucher(user_id)
        if customer_id is not None:
            path = "/api/customers/{id}"
            record = _data(self._service.get(path, values={"id": customer_id}, token=token))
        elif user_id is not None and token is not None:
            record = self._in_list(user_id, None, token)
        else:
            record = None
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


def _is_linked(record: Mapping[str, Any], user_id: int, email: str | None) -> bool:
    if record.get("userId") is not None:
        return str(record["userId"]) == str(user_id)
    theirs = record.get("email")
    return bool(theirs and email) and str(theirs).casefold() == str(email).casefold()


def _data(answer: Answer) -> Mapping[str, Any] | None:
    """Return `data` of an envelope; None stands for a record that is not there, or not for us.

    Raises:
        UpstreamError: what came is no answer of that service.
    """
    if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return None
    body = answer.json() if answer.status == HTTPStatus.OK else None
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        raise UpstreamError(f"a service answered {answer.status} without data")
    return data
