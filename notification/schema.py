"""Shapes at notification's borders: `parse` on the way in, `dump` on the way out."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import AfterValidator, Field
from pydantic.alias_generators import to_camel

from cloud.envelope import local_date_time, zoned_date_time
from cloud.schema import Body, Int64, NotBlank, Text, is_int64, parse_json
from notification.domain import (
    CLIENT_TYPES,
    GENERAL,
    CustomerId,
    Device,
    Draft,
    Letter,
    Notification,
    PaymentSucceeded,
    Preferences,
    UserId,
)

# A stream may have to keep a page of notifications for its reader.
_MOST_METADATA: Final = 16 * 1024


def _metadata(given: dict[str, Any]) -> dict[str, Any]:
    """Spell it as a JVM service would store it: a number with decimals is a double.

    Raises:
        ValueError: the document store cannot hold it, or would give something else back.
    """
    made: dict[str, Any] = _storable(given)
    if len(orjson.dumps(made)) > _MOST_METADATA:
        raise ValueError(f"must have at most {_MOST_METADATA} bytes")
    return made


def _storable(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, int) and not is_int64(value):
        raise ValueError("holds a whole number of more than 64 bits")
    if isinstance(value, dict):
        if any(name.startswith("$") for name in value):
            # To drivers it is an operator or a reference.
            raise ValueError("holds a name that begins with $")
        return {name: _storable(item) for name, item in value.items()}
    return [_storable(item) for item in value] if isinstance(value, list) else value


def _params(given: dict[str, Any]) -> dict[str, Any]:
    """Leave amounts as they were written; refuse what a letter could not carry."""
    _storable(given)
    return given


class NotificationRequest(Body):
    """Body of createNotification; id, read and createdAt are not the caller's to choose."""

    customer_id: Int64
    type: Annotated[str, Text(50)] | None = None
    title: Annotated[str, Text(255)] | None = None
    description: Annotated[str, Text(2000)] | None = None
    deep_link: Annotated[str, Text(2048)] | None = None

    def draft(self) -> Draft:
        return Draft(
            type=self.type,
            title=self.title,
            description=self.description,
            customer_id=CustomerId(self.customer_id),
            deep_link=self.deep_link,
        )


class ClientNotificationRequest(Body):
    """Body of clientCreateNotification: what the app's user notes for himself."""

    type: Annotated[str, Text(50)] | None = None
    title: Annotated[NotBlank, Text(255)]
    description: Annotated[str, Text(2000)] | None = None
    image_url: Annotated[str, Text(2048)] | None = None
    deep_link: Annotated[str, Text(2048)] | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_metadata)] | None = None

    def draft(self, user_id: UserId) -> Draft:
        return Draft(
            type=self.type if self.type in CLIENT_TYPES else GENERAL,
            title=self.title,
            description=self.description or "",
            user_id=user_id,
            deep_link=self.deep_link,
            image_url=self.image_url,
            metadata=self.metadata,
        )


class PaymentSucceededEvent(Body):
    """PaymentSucceededEvent, from either publisher; `userId` only from ours."""

    transaction_id: Int64
    customer_id: Int64 | None = None
    movie_id: Annotated[str, Text(255)] | None = None
    amount: Decimal | None = Field(None, ge=0, max_digits=19, decimal_places=4)
    currency: Annotated[str, Text(255)] | None = None
    user_id: Int64 | None = None


class UserCreatedEvent(Body):
    """`user.created`."""

    user_id: Int64
    username: Annotated[NotBlank, Text(255)]
    email: Annotated[str, Text(255)] | None = None


class NotificationRequestedEvent(Body):
    """`notification.requested`; without `to` the user's own address is meant."""

    channel: Annotated[NotBlank, Text(50)]
    template: Annotated[NotBlank, Text(255)]
    dedup_key: Annotated[NotBlank, Text(255)]
    user_id: Int64 | None = None
    customer_id: Int64 | None = None
    to: Annotated[str, Text(320)] | None = None
    params: Annotated[dict[str, Any], AfterValidator(_params)] | None = None

    def letter(self, now: datetime) -> Letter:
        return Letter(
            key=f"notification.requested:{self.dedup_key}",
            channel=self.channel,
            template=self.template,
            user_id=None if self.user_id is None else UserId(self.user_id),
            customer_id=None if self.customer_id is None else CustomerId(self.customer_id),
            to=self.to,
            params=self.params or {},
            written_at=now,
        )


class LetterMessage(Body):
    """What `dump_letter` wrote."""

    key: str
    channel: str
    template: str
    user_id: Int64 | None = None
    customer_id: Int64 | None = None
    to: str | None = None
    params: dict[str, Any]
    written_at: datetime


class DeviceRequest(Body):
    """Body of registerDevice."""

    token: Annotated[NotBlank, Text(4096)]
    platform: Literal["android", "ios", "web"] | None = None


class PreferencesRequest(Body):
    """Body of setPreferences."""

    email: bool
    push: bool

    def preferences(self) -> Preferences:
        return Preferences(self.email, self.push)


def parse_letter(body: bytes) -> Letter:
    """Read a letter.

    Raises:
        InvalidError: it is none of ours.
    """
    return Letter(**LetterMessage.parse(parse_json(body)).model_dump())


def dump_letter(letter: Letter) -> bytes:
    """Spell a letter for the queue of its channel."""
    fields = {to_camel(name): value for name, value in asdict(letter).items()}
    return orjson.dumps(fields, default=str)


def dump_device(device: Device) -> dict[str, Any]:
    """Device; its token stays here."""
    return {
        "id": device.id,
        "platform": device.platform,
        "createdAt": local_date_time(device.created_at),
    }


def dump_preferences(preferences: Preferences) -> dict[str, Any]:
    """Preferences."""
    return {"email": preferences.email, "push": preferences.push}


def parse_payment(body: bytes) -> PaymentSucceeded:
    """Read PaymentSucceededEvent.

    Raises:
        InvalidError: it is no JSON, or names no transaction, so that a double could not be told.
    """
    event = PaymentSucceededEvent.parse(parse_json(body))
    return PaymentSucceeded(**event.model_dump())


def dump(notification: Notification) -> dict[str, Any]:
    """Notification of the contract; nulls are written."""
    return {
        "id": notification.id,
        "customerId": notification.customer_id,
        "type": notification.type,
        "title": notification.title,
        "description": notification.description,
        "deepLink": notification.deep_link,
        "read": notification.read,
        "createdAt": local_date_time(notification.created_at),
    }


def dump_client(notification: Notification) -> dict[str, Any]:
    """ClientNotification: what the app and the live stream read; texts are never null there."""
    read_at = notification.read_at
    metadata = notification.metadata
    return {
        "id": notification.id,
        "type": notification.type or GENERAL,
        "title": notification.title or "",
        "description": notification.description or "",
        "createdAt": zoned_date_time(notification.created_at),
        "readAt": None if read_at is None else zoned_date_time(read_at),
        "imageUrl": notification.image_url,
        "deepLink": notification.deep_link,
        "metadata": metadata if isinstance(metadata, Mapping) else None,
    }


def dump_push(notification: Notification) -> bytes:
    """One line of JSON for a live stream: ClientNotification and the customer it is about."""
    fields = {**dump_client(notification), "customerId": notification.customer_id}
    return orjson.dumps(fields, default=str)
