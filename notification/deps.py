"""What routes and consumers of notification lean on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloud.clock import Clock
from cloud.security import Principal
from notification.service import Announcements, Customers, Notifications, Payments, Streams
from notification.settings import Settings

Check = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Deps:
    """One frozen list, made by `app.connect`, or by a test."""

    settings: Settings
    notifications: Notifications
    announcements: Announcements
    hub: Streams
    customers: Customers
    payments: Payments
    revoked: Callable[[Principal], bool]
    checks: Mapping[str, Check]
    now: Clock
