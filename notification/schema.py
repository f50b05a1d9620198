"""Shapes at notification's borders: `parse` on the way in, `dump` on the way out."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

import orjson
from pydantic import Field

from cloud.envelope import local_date_time, zoned_date_time
from cloud.schema import Body, Int64, NotBlank, Text, parse_json
from notification.domain import (
    CLIENT_TYPES,
    GENERAL,
    CustomerId,
    Draft,
    Notification,
    PaymentSucceeded,
    UserId,
)


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
    metadata: dict[str, Any] | None = None

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
    movie_id: str | None = None
    amount: Decimal | None = Field(None, ge=0, max_digits=19, decimal_places=4)
    currency: Annotated[str, Text(255)] | None = None
    user_id: Int64 | None = None


class UserCreatedEvent(Body):
    """`user.created`."""

    user_id: Int64
    username: Annotated[NotBlank, Text(255)]


class NotificationRequestedEvent(Body):
    """`notification.requested`."""

    channel: Annotated[NotBlank, Text(50)]
    template: Annotated[NotBlank, Text(255)]
    dedup_key: Annotated[NotBlank, Text(255)]
    user_id: Int64 | None = None
    customer_id: Int64 | None = None


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
