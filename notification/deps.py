"""What routes and consumers of notification lean on."""

from collections.abc import Callable
from dataclasses import dataclass

from cloud.clock import Clock
from cloud.security import Principal
from notification.service import Announcements, Customers, Notifications, Payments
from notification.settings import Settings
from notification.store import Hub


@dataclass(frozen=True, slots=True)
class Deps:
    """One frozen list, made by `app.connect`, or by a test."""

    settings: Settings
    notifications: Notifications
    announcements: Announcements
    hub: Hub
    customers: Customers
    payments: Payments
    revoked: Callable[[Principal], bool]
    now: Clock
