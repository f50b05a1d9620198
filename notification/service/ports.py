"""What the use cases of notification ask of others."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from cloud.security import Principal
from notification.domain import (
    Audience,
    CustomerId,
    Device,
    Draft,
    Letter,
    Listener,
    Notification,
    NotificationId,
    Preferences,
    UserId,
)


class Notifications(Protocol):
    """Answered by notification.store.MongoNotifications."""

    def add_many(
        self, drafts: Sequence[Draft], *, now: datetime
    ) -> list[tuple[Notification, bool]]: ...
    def find(self, notification_id: NotificationId) -> Notification | None: ...
    def moment_of(self, notification_id: NotificationId) -> datetime | None: ...
    def of_customer(
        self, customer_id: CustomerId, limit: int, *, unread: bool = False
    ) -> list[Notification]: ...
    def count_unread(self, customer_id: CustomerId) -> int: ...
    def of_audience(self, audience: Audience, limit: int) -> list[Notification]: ...
    def since(self, audience: Audience, moment: datetime) -> Iterator[Notification]: ...
    def mark_read(self, notification_id: NotificationId, *, now: datetime) -> None: ...
    def mark_all_read(self, audience: Audience, *, now: datetime) -> None: ...
    def delete(self, notification_id: NotificationId) -> None: ...
    def delete_read(self, audience: Audience) -> None: ...


class Announcements(Protocol):
    """Answered by notification.store.Announcements."""

    def announce(
        self, payload: bytes, *, user_id: UserId | None, customer_id: CustomerId | None
    ) -> None: ...
    def seen(self, keys: Collection[str]) -> frozenset[str]: ...
    def announced(self, pushes: Iterable[tuple[Notification, bytes, str | None]]) -> None: ...


class Streams(Protocol):
    """Answered by notification.store.Hub."""

    live: bool

    def reserve(self) -> bool: ...
    def release(self) -> None: ...
    def join(self, listener: Listener) -> None: ...
    def leave(self, listener: Listener) -> None: ...
    def listeners(self) -> list[Listener]: ...
    def wait(self, seconds: float) -> bool: ...


class Revocations(Protocol):
    """Answered by cloud.stores.revocations.Revocations."""

    def among(self, principals: Sequence[Principal]) -> frozenset[str]: ...


class Customers(Protocol):
    """Answered by notification.clients.CustomerClient."""

    def owns(self, caller: Principal, customer_id: CustomerId) -> bool: ...
    def owned_by(self, caller: Principal) -> frozenset[CustomerId]: ...
    def find_email(self, user_id: UserId | None, customer_id: CustomerId | None) -> str | None: ...


class Payments(Protocol):
    """Answered by notification.clients.PaymentClient."""

    def find_status(self, transaction_id: int) -> str | None: ...


class Devices(Protocol):
    """Answered by notification.store.MongoDevices."""

    def register(
        self, user_id: UserId, token: str, platform: str | None, *, now: datetime
    ) -> Device: ...
    def unregister(self, user_id: UserId, device_id: str) -> None: ...
    def of_user(self, user_id: UserId) -> list[Device]: ...
    def forget(self, device: Device) -> None: ...


class PreferencesStore(Protocol):
    """Answered by notification.store.MongoPreferences."""

    def of_user(self, user_id: UserId) -> Preferences: ...
    def keep(self, user_id: UserId, preferences: Preferences) -> None: ...


class Deliveries(Protocol):
    """Answered by notification.store.MongoDeliveries: what a channel has done already."""

    def done(self, key: str) -> bool: ...
    def remember(self, key: str, *, now: datetime) -> None: ...


class Post(Protocol):
    """Answered by notification.clients.RabbitPost."""

    def send(self, letters: Sequence[Letter]) -> None: ...


class Templates(Protocol):
    """Answered by notification.clients.Templates."""

    def knows(self, template: str, channel: str) -> bool: ...
    def fill(self, letter: Letter) -> Mapping[str, str]: ...


class Channel(Protocol):
    """One way to reach a person; answered by notification.clients: mail, push.

    `deliver` reaches one address (a mail address, a device's token). A failure that will pass is
    any exception, one that lasts is a `LostAddressError` or a `RefusedLetterError`.
    """

    def deliver(self, letter: Letter, address: str, words: Mapping[str, str]) -> None: ...
