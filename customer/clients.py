"""Calls to payment, by logical name."""

from http import HTTPStatus

from cloud.client import ServiceClient
from cloud.errors import UpstreamError


class PaymentClient:
    """Transactions, as a JVM payment-service answers anybody. Ours is never asked: it tells."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    def find_status(self, transaction_id: int) -> str | None:
        """Return the transaction's status in lower case; None when there is no such transaction.

        Raises:
            UnavailableError: nobody answers.
            UpstreamError: it does not say. One of ours answers nobody without a token, and its
                events need no question.
        """
        answer = self._service.get(
            "/api/payments/transaction/{id}", values={"id": transaction_id}, token=None
        )
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        body = answer.json() if answer.status == HTTPStatus.OK else None
        data = body.get("data") if isinstance(body, dict) else None
        if not isinstance(data, dict):
            raise UpstreamError(f"payment-service answered {answer.status} without data")
        return str(data.get("status")).lower()
