"""What notification keeps: documents that last, and pushes that do not."""

from notification.store.notifications import MongoNotifications, create_indexes
from notification.store.push import Announcements, Hub

__all__ = ["Announcements", "Hub", "MongoNotifications", "create_indexes"]
