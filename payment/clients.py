"""Calls to the catalogue and to the customer records, by logical name."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from cloud.client import Answer, ServiceClient
from cloud.errors import UpstreamError
from cloud.security import Principal
from payment.domain import (
    CustomerId,
    ForeignCustomerError,
    MovieId,
    Title,
    UnknownCustomerError,
    UnknownMovieError,
)


class MovieClient:
    """The catalogue, as movie-service answers it; Python or JVM alike."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    def get(self, movie_id: MovieId) -> Title:
        """Fetch a title.

        Raises:
            UnknownMovieError: there is none.
            UpstreamError: the answer cannot be used.
            UnavailableError: nobody answers.
        """
        data = _data(self._service.get("/api/movies/{id}", values={"id": movie_id}))
        if data is None:
            raise UnknownMovieError("movie not found")
        try:
            price = Decimal(str(data.get("price") or 0)).quantize(Decimal("0.01"))
        except InvalidOperation as error:
            raise UpstreamError("movie-service answered an unusable price") from error
        return Title(id=movie_id, price=price, access=str(data.get("accessType") or "FREE"))


class CustomerClient:
    """Customer records, as customer-service answers them; Python or JVM alike."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    def ensure_owned(self, customer_id: CustomerId, caller: Principal) -> None:
        """Raise unless the record is linked to the caller, or the caller is an ADMIN.

        Our customer-service hides foreign records from a caller; a JVM one returns every
        record to everybody, so ownership is compared here as well.

        Raises:
            UnknownCustomerError: no such record.
            ForeignCustomerError: somebody else's.
        """
        path, values = "/api/customers/{id}", {"id": customer_id}
        data = _data(self._service.get(path, values=values))
        if data is None:
            # Without a token the record is reduced, but tells 403 from 404 (contract, PY-04).
            if _data(self._service.get(path, values=values, token=None)) is None:
                raise UnknownCustomerError("customer not found")
            raise ForeignCustomerError("this customer record is not yours")
        if not caller.has_role("ADMIN") and not _owns(data, caller):
            raise ForeignCustomerError("this customer record is not yours")


def _owns(record: Mapping[str, Any], caller: Principal) -> bool:
    if record.get("userId") is not None:
        return str(record["userId"]) == str(caller.user_id)
    email = record.get("email")
    return bool(email and caller.email) and str(email).casefold() == str(caller.email).casefold()


def _data(answer: Answer) -> Mapping[str, Any] | None:
    """Return `data` of an envelope, None for a 404.

    Raises:
        UpstreamError: any other status, or no envelope.
    """
    if answer.status == 404:  # noqa: PLR2004 - the status is its own name
        return None
    if answer.status != 200:  # noqa: PLR2004
        raise UpstreamError(f"a service answered {answer.status}")
    body = answer.json()
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        raise UpstreamError("a service answered without data")
    return data
