"""Use case: a letter reaches a person by one channel."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

import structlog

from cloud.clock import Clock
from notification.domain import (
    EMAIL,
    PUSH,
    Device,
    Letter,
    LostAddressError,
    UnknownAddressError,
)
from notification.service.ports import (
    Channel,
    Customers,
    Deliveries,
    Devices,
    PreferencesStore,
    Templates,
)
from notification.service.telling import NO_ANSWER

log = structlog.get_logger()

# What a user may not turn off: it concerns the account, not what he watches.
_WANTED_OR_NOT: Final = ("security-", "password-", "email-", "otp", "account-")
_TOO_LATE: Final = timedelta(days=1)


def deliver(
    letter: Letter,
    *,
    channel: Channel | None,
    templates: Templates,
    customers: Customers,
    devices: Devices,
    preferences: PreferencesStore,
    deliveries: Deliveries,
    now: Clock,
) -> None:
    """Bring a letter to each of its addresses, once to each.

    What was brought is noted at once, so that a repetition for one address that failed leaves out
    the others. A process that dies between the two delivers twice: the mail's Message-ID and the
    push's tag are the same then.

    Raises:
        RefusedLetterError: it cannot be delivered, however often it is tried.
        Exception: at least one address was not reached, but may be later.
    """
    if channel is None or not _is_wanted(letter, preferences):
        log.info("letter_left_out", key=letter.key, channel=letter.channel)
        return
    if letter.channel == PUSH and now() - letter.written_at > _TOO_LATE:
        log.warning("letter_too_late", key=letter.key, channel=letter.channel)
        return
    words = templates.fill(letter)
    failure: Exception | None = None
    for address, device in _addresses(letter, customers, devices):
        once = f"{letter.channel}:{letter.key}:{device.id if device else 'to'}"
        if deliveries.done(once):
            continue
        try:
            channel.deliver(letter, address, words)
        except LostAddressError:
            if device is not None:
                devices.forget(device)
            log.info("address_lost", channel=letter.channel, device=device and device.id)
        except Exception as error:  # noqa: BLE001 - told when all have been tried
            failure = error
        else:
            deliveries.remember(once, now=now())
            log.info("letter_delivered", key=letter.key, channel=letter.channel)
    if failure is not None:
        raise failure


def _is_wanted(letter: Letter, preferences: PreferencesStore) -> bool:
    if letter.user_id is None or letter.template.startswith(_WANTED_OR_NOT):
        return True
    chosen = preferences.of_user(letter.user_id)
    return {EMAIL: chosen.email, PUSH: chosen.push}.get(letter.channel, True)


def _own_address(letter: Letter, customers: Customers) -> str | None:
    try:
        return customers.find_email(letter.user_id, letter.customer_id)
    except NO_ANSWER as error:
        # Not the store's absence, for which a consumer waits with the delivery in hand.
        raise UnknownAddressError("customer-service cannot be asked") from error


def _addresses(
    letter: Letter, customers: Customers, devices: Devices
) -> Iterator[tuple[str, Device | None]]:
    if letter.channel == PUSH:
        if letter.user_id is not None:
            yield from ((device.token, device) for device in devices.of_user(letter.user_id))
        return
    address = letter.to or _own_address(letter, customers)
    if address:
        yield address, None
    else:
        log.info("no_address", key=letter.key, user=letter.user_id, customer=letter.customer_id)
