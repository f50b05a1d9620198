"""What routes and consumers of notification lean on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloud.clock import Clock
from cloud.security import Principal
from notification.service import Watch
from notification.service.ports import (
    Announcements,
    Channel,
    Customers,
    Deliveries,
    Devices,
    Notifications,
    Payments,
    Post,
    PreferencesStore,
    Streams,
    Templates,
)
from notification.settings import Settings

Check = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Deps:
    """One frozen list, made by `app.connect`, or by a test."""

    settings: Settings
    notifications: Notifications
    announcements: Announcements
    hub: Streams
    watch: Watch
    customers: Customers
    payments: Payments
    devices: Devices
    preferences: PreferencesStore
    deliveries: Deliveries
    post: Post
    templates: Templates
    channels: Mapping[str, Channel]
    revoked: Callable[[Principal], bool]
    checks: Mapping[str, Check]
    now: Clock
