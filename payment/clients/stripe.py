"""Stripe as the provider (https://docs.stripe.com/api).

Every call that makes or moves something carries an idempotency key derived from our transaction:
after a crash, or a time-out, the same call again finds what the first one did.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeVar

import stripe
import structlog
from opentelemetry.trace import SpanKind

from cloud import tracing
from cloud.breaker import CircuitBreaker
from cloud.errors import NotConfiguredError, UnavailableError, UpstreamError
from payment.domain import (
    Intent,
    NotRefundableError,
    PriceError,
    Status,
    Transaction,
    Verdict,
    amount_of,
    minor_units,
)
from payment.settings import StripeSettings

log = structlog.get_logger()
T = TypeVar("T")

# What the app's SDK was built for; a key of another version is of no use to it.
_DEVICE_VERSION: Final = "2024-11-20.acacia"
_SILENT: Final = (stripe.APIConnectionError, stripe.APIError, stripe.RateLimitError)
_OVER: Final = "payment_intent_unexpected_state"
_MISSING: Final = "resource_missing"


class Stripe:
    """PaymentIntents of one Stripe account; nothing is opened before the first call."""

    def __init__(self, settings: StripeSettings, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._return_url = settings.return_url
        self._api = stripe.StripeClient(
            settings.secret_key,
            base_addresses={"api": settings.api_base},
            max_network_retries=settings.retries,
            http_client=stripe.RequestsClient(timeout=settings.timeout.total_seconds()),
        ).v1

    def start(
        self,
        transaction: Transaction,
        buyer: str | None,
        *,
        on_device: bool,
        now: datetime,  # noqa: ARG002 - a provider's signature
    ) -> Intent:
        """Create the PaymentIntent of a transaction, or fetch the one it has.

        Raises:
            UpstreamError: Stripe refuses what we ask.
        """
        try:
            known = transaction.stripe_payment_intent_id
            intent = (
                self._call(lambda: self._api.payment_intents.retrieve(known))
                if known
                else self._create(transaction, buyer or self._customer(transaction))
            )
            kept = buyer or transaction.stripe_customer_id or ""
            customer = intent.customer if isinstance(intent.customer, str) else kept
            secret = self._device_key(customer) if on_device else ""
        except stripe.StripeError as error:
            raise UpstreamError("the payment provider refused the request") from error
        return Intent(intent.id, intent.client_secret or "", secret, customer)

    def charge(self, transaction: Transaction, method: str, *, now: datetime) -> Verdict | None:
        """Confirm the transaction's intent with a payment method.

        Raises:
            PriceError: Stripe has no such payment method.
            UpstreamError: Stripe refuses what we ask.
        """
        known = transaction.stripe_payment_intent_id or ""
        # Another card is another attempt; the same one again is the same.
        attempt = hashlib.sha256(method.encode()).hexdigest()[:16]
        try:
            intent = self._call(
                lambda: self._api.payment_intents.confirm(
                    known,
                    {"payment_method": method, "return_url": self._return_url},
                    {"idempotency_key": f"{transaction.provider_key}-confirm-{attempt}"},
                )
            )
        except stripe.CardError as error:
            return _declined(transaction, error)
        except stripe.InvalidRequestError as error:
            if error.code == _OVER:
                return self.look(transaction, now=now)
            if error.param == "payment_method":
                fields = {"paymentMethodId": "is unknown"}
                raise PriceError("no such payment method", fields) from error
            raise UpstreamError("the payment provider refused the charge") from error
        return _verdict(transaction, intent)

    def look(self, transaction: Transaction, *, now: datetime) -> Verdict | None:  # noqa: ARG002
        """Fetch the intent's state.

        Raises:
            UpstreamError: Stripe knows no such intent.
        """
        known = transaction.stripe_payment_intent_id
        if known is None:
            return None
        try:
            intent = self._call(lambda: self._api.payment_intents.retrieve(known))
        except stripe.StripeError as error:
            raise UpstreamError("the payment provider does not know the payment") from error
        return _verdict(transaction, intent)

    def cancel(self, transaction: Transaction, *, now: datetime) -> Verdict | None:
        """Cancel the intent; one that was never made, or is not known, is canceled too."""
        known = transaction.stripe_payment_intent_id
        if known is None:
            return _canceled(transaction)
        options: stripe.RequestOptions = {"idempotency_key": f"{transaction.provider_key}-cancel"}
        try:
            intent = self._call(lambda: self._api.payment_intents.cancel(known, {}, options))
        except stripe.InvalidRequestError as error:
            if error.code == _MISSING:
                return _canceled(transaction)
            return self.look(transaction, now=now)
        except stripe.StripeError as error:
            raise UpstreamError("the payment provider refused the request") from error
        return _verdict(transaction, intent)

    def refund(self, transaction: Transaction, *, now: datetime) -> str:  # noqa: ARG002
        """Refund the whole payment.

        Raises:
            NotRefundableError: Stripe refuses.
        """
        known = transaction.stripe_payment_intent_id or ""
        params: stripe.params.RefundCreateParams = {
            "payment_intent": known,
            "metadata": {"transactionId": str(transaction.id)},
        }
        options: stripe.RequestOptions = {"idempotency_key": f"{transaction.provider_key}-refund"}
        try:
            made = self._call(lambda: self._api.refunds.create(params, options))
        except stripe.InvalidRequestError as error:
            if error.code == "charge_already_refunded":
                return known  # by somebody at Stripe's own desk
            raise NotRefundableError("the payment provider refuses the refund") from error
        except stripe.StripeError as error:
            raise UpstreamError("the payment provider refused the request") from error
        if made.status in {"failed", "canceled"}:
            raise NotRefundableError("the payment provider could not make the refund")
        return made.id

    def _customer(self, transaction: Transaction) -> str:
        params: stripe.params.CustomerCreateParams = {"metadata": _metadata(transaction)}
        options: stripe.RequestOptions = {"idempotency_key": f"{transaction.provider_key}-customer"}
        return self._call(lambda: self._api.customers.create(params, options)).id

    def _create(self, transaction: Transaction, customer: str) -> stripe.PaymentIntent:
        currency = transaction.currency or ""
        params: stripe.params.PaymentIntentCreateParams = {
            "amount": minor_units(transaction.amount, currency),
            "currency": currency,
            "customer": customer,
            "automatic_payment_methods": {"enabled": True},
            "metadata": _metadata(transaction),
        }
        options: stripe.RequestOptions = {"idempotency_key": f"{transaction.provider_key}-intent"}
        return self._call(lambda: self._api.payment_intents.create(params, options))

    def _device_key(self, customer: str) -> str:
        options: stripe.RequestOptions = {"stripe_version": _DEVICE_VERSION}
        made = self._call(lambda: self._api.ephemeral_keys.create({"customer": customer}, options))
        secret = getattr(made, "secret", None)
        if not secret:
            raise UpstreamError("the payment provider gave no key for the device")
        return str(secret)

    def _call(self, call: Callable[[], T]) -> T:
        """Make a call under the breaker; a refusal is an answer, silence is not.

        Raises:
            UnavailableError: Stripe does not answer, or has trouble of its own.
            NotConfiguredError: Stripe does not accept our key.
        """
        permit = self._breaker.acquire()
        try:
            with tracing.span("stripe", SpanKind.CLIENT, attributes={"peer.service": "stripe"}):
                answer = call()
        except _SILENT as error:
            permit.failed(error)
            raise UnavailableError("the payment provider does not answer") from error
        except stripe.StripeError as error:
            permit.succeeded()
            if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
                # Without its text: that may name the key.
                log.error("stripe_key_refused", request_id=error.request_id)  # noqa: TRY400
                raise NotConfiguredError("the payment provider is not configured") from error
            log.info("stripe_refused", code=error.code, request_id=error.request_id)
            raise
        except BaseException:
            permit.released()
            raise
        permit.succeeded()
        return answer


def _metadata(transaction: Transaction) -> dict[str, str]:
    return {
        "transactionId": str(transaction.id),
        "userId": str(transaction.user_id),
        "movieId": transaction.movie_id,
    }


_STATUS: Final = {
    "succeeded": Status.SUCCEEDED,
    "canceled": Status.CANCELED,
    "requires_payment_method": Status.FAILED,
}


def _verdict(transaction: Transaction, intent: stripe.PaymentIntent) -> Verdict | None:
    """Read an intent; None while the buyer, his bank or Stripe has yet to act."""
    status, fault = _STATUS.get(intent.status), intent.last_payment_error
    reason = getattr(fault, "message", None)  # absent keys are absent attributes
    if status is None or (status is Status.FAILED and reason is None):
        return None
    paid = status is Status.SUCCEEDED
    charge = intent.latest_charge
    return Verdict(
        transaction_id=transaction.id,
        intent_id=intent.id,
        status=status,
        amount=amount_of(intent.amount_received if paid else intent.amount, intent.currency),
        currency=intent.currency,
        charge_id=charge if charge is None or isinstance(charge, str) else charge.id,
        reason=reason if status is Status.FAILED else None,
    )


def _declined(transaction: Transaction, error: stripe.CardError) -> Verdict:
    charge = error.error.charge if error.error else None
    return Verdict(
        transaction_id=transaction.id,
        intent_id=transaction.stripe_payment_intent_id,
        status=Status.FAILED,
        amount=transaction.amount,
        currency=transaction.currency or "",
        charge_id=charge if isinstance(charge, str) else None,
        reason=error.user_message or "The payment was declined.",
    )


def _canceled(transaction: Transaction) -> Verdict:
    return Verdict(
        transaction_id=transaction.id,
        intent_id=transaction.stripe_payment_intent_id,
        status=Status.CANCELED,
        amount=transaction.amount,
        currency=transaction.currency or "",
    )
