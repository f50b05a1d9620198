"""What notification keeps: documents that last, and pushes that do not."""

from notification.store.notifications import MongoNotifications
from notification.store.people import MongoDeliveries, MongoDevices, MongoPreferences
from notification.store.push import Announcements, Hub

__all__ = [
    "Announcements",
    "Hub",
    "MongoDeliveries",
    "MongoDevices",
    "MongoNotifications",
    "MongoPreferences",
]
