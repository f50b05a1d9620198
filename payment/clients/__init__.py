"""Calls to the catalogue and to the customer records, by logical name."""

from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

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
    UserId,
    may_be_title,
)

_OK: Final = 200
_CREATED: Final = 201
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404


class MovieClient:
    """The catalogue, as movie-service answers it; Python or JVM alike."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    def get(self, movie_id: MovieId, *, deadline: datetime | None = None) -> Title:
        """Fetch a title.

        Raises:
            UnknownMovieError: there is none.
            UpstreamError: the answer cannot be used.
            UnavailableError: nobody answers.
        """
        if not may_be_title(movie_id):
            # `trending` or `slug/x` name other questions of the catalogue, not titles.
            raise UnknownMovieError("movie not found")
        path, values = "/api/movies/{id}", {"id": movie_id}
        # With a token the catalogue would ask us, who wait for it, whether the title is paid.
        data = _data(self._service.get(path, values=values, token=None, deadline=deadline))
        if data is None:
            raise UnknownMovieError("movie not found")
        if data.get("id") != movie_id:
            # Sold under another id it would stay locked to its buyer.
            raise UpstreamError("movie-service answered another title")
        try:
            price = Decimal(str(data.get("price") or 0)).quantize(Decimal("0.01"))
        except InvalidOperation as error:
            raise UpstreamError("movie-service answered an unusable price") from error
        rating = data.get("tmdbRating") or data.get("imdbRating")
        return Title(
            id=movie_id,
            price=price,
            access=str(data.get("accessType") or "FREE"),
            name=str(data.get("name") or data.get("title") or movie_id),
            image_url=str(data.get("posterUrl") or data.get("thumbUrl") or ""),
            slug=str(data["slug"]) if data.get("slug") else None,
            rating=rating if isinstance(rating, int | float) else None,
        )


class CustomerClient:
    """Customer records, as customer-service answers them; Python or JVM alike.

    Our customer-service hides foreign records from a caller; a JVM one returns every record to
    everybody, so ownership is compared here as well.

    Args:
        service: customer-service.
        voucher: signs a token for a user who is not there to show his own.
    """

    def __init__(self, service: ServiceClient, voucher: Callable[[UserId], str]) -> None:
        self._service = service
        self._voucher = voucher

    def ensure_owned(self, customer_id: CustomerId, caller: Principal) -> None:
        """Raise unless the record is linked to the caller; an ADMIN pays as nobody else either.

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
        if not _owns(data, caller.user_id, caller.email):
            raise ForeignCustomerError("this customer record is not yours")

    def of_caller(self, caller: Principal) -> CustomerId:
        """Find the caller's record, or create it.

        Raises:
            UnknownCustomerError: there is none, and the token names no e-mail to make one with.
        """
        found = self._find(caller) or self._create(caller) or self._find(caller)
        if found is None:
            raise UnknownCustomerError("customer not found")
        return found

    def of_user(self, user_id: UserId) -> CustomerId:
        """Find a user's record.

        Raises:
            UnknownCustomerError: there is none that is linked to this user.
        """
        found = self._own(user_id, None, token=self._voucher(user_id))
        if found is None:
            raise UnknownCustomerError("customer not found")
        return found

    def _find(self, caller: Principal) -> CustomerId | None:
        found = self._own(caller.user_id, caller.email, token=caller.token)
        if found is not None or not caller.email:
            return found
        # An ADMIN is shown a page of everybody's: his own may be on another.
        path = "/api/customers/email/{email}"
        record = _data(self._service.get(path, values={"email": caller.email}))
        mine = record is not None and _owns(record, caller.user_id, caller.email)
        return CustomerId(record["id"]) if record and mine else None

    def _own(self, user_id: int, email: str | None, *, token: str) -> CustomerId | None:
        answer = self._service.get("/api/customers", token=token)
        body = answer.json() if answer.status == _OK else None
        records = body.get("data") if isinstance(body, dict) else None
        if not isinstance(records, list):
            raise UpstreamError(f"a service answered {answer.status}")
        own = (one for one in records if isinstance(one, dict) and _owns(one, user_id, email))
        return next((CustomerId(one["id"]) for one in own), None)

    def _create(self, caller: Principal) -> CustomerId | None:
        """Make the caller's record; None when it cannot be, or has just been made by another."""
        if not caller.email:
            return None
        answer = self._service.request("POST", "/api/customers", json={"email": caller.email})
        if answer.status == _BAD_REQUEST:
            return None
        made = _data(answer)
        return CustomerId(made["id"]) if made else None


def _owns(record: Mapping[str, Any], user_id: int, email: str | None) -> bool:
    if record.get("userId") is not None:
        return str(record["userId"]) == str(user_id)
    theirs = record.get("email")
    return bool(theirs and email) and str(theirs).casefold() == str(email).casefold()


def _data(answer: Answer) -> Mapping[str, Any] | None:
    """Return `data` of an envelope, None for a 404.

    Raises:
        UpstreamError: any other status, or no envelope.
    """
    if answer.status == _NOT_FOUND:
        return None
    if answer.status not in {_OK, _CREATED}:
        raise UpstreamError(f"a service answered {answer.status}")
    body = answer.json()
    data = body.get("data") if isinstance(body, dict) else None
    if not isinstance(data, dict):
        raise UpstreamError("a service answered without data")
    return data
