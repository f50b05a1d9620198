"""What becomes of a payment after it was started: verdicts, their reconciliation, refunds."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from cloud.errors import CloudError, UnavailableError
from payment.domain import (
    ForgedEventError,
    NoProviderError,
    Notice,
    NotRefundableError,
    Outcome,
    Transaction,
    TransactionId,
    UserId,
    Verdict,
)
from payment.service.ports import Provider, Transactions

log = structlog.get_logger()


def receive(notice: Notice, *, transactions: Transactions, now: datetime) -> Outcome:
    """Apply a provider's event, once.

    Raises:
        ForgedEventError: it contradicts the transaction it names: intent, amount or currency.
    """
    verdict = notice.verdict
    if verdict is None:
        return Outcome.UNKNOWN
    outcome = settle(verdict, transactions=transactions, now=now, event_id=notice.id)
    if outcome is Outcome.CONTRADICTION:
        raise ForgedEventError("the event does not match the transaction")
    return outcome


def settle(
    verdict: Verdict, *, transactions: Transactions, now: datetime, event_id: str | None = None
) -> Outcome:
    """Apply what a provider decided; the log tells it, a contradiction to our record as an error.

    Without an `event_id` it is the provider's answer to a question of ours.
    """
    outcome = transactions.settle(verdict, now=now, event_id=event_id)
    told = {"event_id": event_id, "transaction_id": verdict.transaction_id}
    if outcome is Outcome.CONTRADICTION:
        log.error("payment_contradicted", intent_id=verdict.intent_id, **told)
    else:
        log.info("payment_settled", status=verdict.status, outcome=outcome, **told)
    return outcome


def reconcile(
    *,
    transactions: Transactions,
    provider: Provider,
    after: timedelta,
    give_up: timedelta,
    now: Callable[[], datetime],
) -> int:
    """Ask the provider about payments whose event never came; return how many were decided.

    Args:
        transactions: the record.
        provider: who was asked to collect.
        after: how old a pending transaction must be, and how long until it is asked about again.
        give_up: pending for this long, it is canceled.
        now: the clock.
    """
    moment, decided = now(), 0
    claimed = transactions.claim_pending(
        older_than=moment - after, unseen_since=moment - after, now=moment
    )
    for each in claimed:
        old = each.created_at is not None and each.created_at < moment - give_up
        try:
            verdict = (provider.cancel if old else provider.look)(each, now=now())
            if verdict is None:
                continue
            outcome = settle(verdict, transactions=transactions, now=now())
            decided += outcome is Outcome.CHANGED
        except UnavailableError as error:
            log.warning("reconciliation_put_off", reason=str(error))
            break
        except CloudError as error:
            # One that the provider does not know must not keep the others from being asked about.
            log.warning("payment_not_reconciled", transaction_id=each.id, reason=str(error))
    return decided


def refund(
    transaction_id: TransactionId,
    by: UserId,
    *,
    transactions: Transactions,
    provider: Provider | None,
    now: Callable[[], datetime],
) -> Transaction:
    """Give a payment back, wholly; once, however often it is asked.

    Returns:
        The transaction; `refunded_at` is None while the provider has not answered, and the refund
        is then repeated until it has.

    Raises:
        NoProviderError: nobody is configured who could give money back.
        UnknownTransactionError: there is none.
        NotRefundableError: nothing was paid, or the provider refuses.
    """
    if provider is None:
        raise NoProviderError("no payment provider is configured")
    found = transactions.request_refund(transaction_id, by, now=now())
    if found.refunded_at is not None:
        return found
    log.info("refund_requested", transaction_id=transaction_id, requested_by=by)
    try:
        return _give_back(found, transactions=transactions, provider=provider, now=now)
    except NotRefundableError:
        raise
    except CloudError as error:
        log.warning("refund_delayed", transaction_id=transaction_id, reason=str(error))
        return found


def repeat_refunds(
    *,
    transactions: Transactions,
    provider: Provider,
    after: timedelta,
    now: Callable[[], datetime],
) -> int:
    """Finish refunds that a crash or a silent provider left open; return how many."""
    moment, done = now(), 0
    for each in transactions.claim_refunds(untried_since=moment - after, now=moment):
        try:
            _give_back(each, transactions=transactions, provider=provider, now=now)
            done += 1
        except UnavailableError as error:
            log.warning("refunds_put_off", reason=str(error))
            break
        except CloudError as error:
            log.warning("refund_delayed", transaction_id=each.id, reason=str(error))
    return done


def _give_back(
    transaction: Transaction,
    *,
    transactions: Transactions,
    provider: Provider,
    now: Callable[[], datetime],
) -> Transaction:
    try:
        refund_id = provider.refund(transaction, now=now())
    except NotRefundableError:
        transactions.refund_refused(transaction.id)
        raise
    log.info("payment_refunded", transaction_id=transaction.id, refund_id=refund_id)
    return transactions.refunded(transaction.id, refund_id, now=now())
