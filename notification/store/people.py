"""What notification knows about people: their devices, their choices, what they were sent."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from bson import Int64
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from cloud.stores import mongo
from cloud.stores.mongo import Document
from notification.domain import Device, Preferences, UserId

DEVICES: Final = "devices"
PREFERENCES: Final = "preferences"
DELIVERIES: Final = "deliveries"
_MOST_DEVICES: Final = 20
_REMEMBERED_S: Final = 30 * 24 * 3600


@mongo.translated()
def create_indexes(database: Database[Document]) -> None:
    """Create what is looked for by, and let what was sent be forgotten after a month."""
    newest = [("user_id", ASCENDING), ("registered_at", DESCENDING)]
    database[DEVICES].create_indexes([IndexModel(newest)])
    at = IndexModel([("at", ASCENDING)], expireAfterSeconds=_REMEMBERED_S)
    database[DELIVERIES].create_indexes([at])


class MongoDevices:
    """Answers service.ports.Devices. The token decides who a device is; its last user owns it."""

    def __init__(self, database: Database[Document]) -> None:
        self._all = database[DEVICES]

    @mongo.translated()
    def register(
        self, user_id: UserId, token: str, platform: str | None, *, now: datetime
    ) -> Device:
        """Note the device as this user's, and forget his oldest beyond a sane number."""
        key = hashlib.sha256(token.encode()).hexdigest()[:32]
        fields = {"user_id": Int64(user_id), "token": token, "platform": platform}
        change = {"$set": {**fields, "registered_at": now}}
        self._all.update_one({"_id": key}, change, upsert=True)
        for device in self.of_user(user_id)[_MOST_DEVICES:]:
            self.forget(device)
        return Device(key, user_id, token, platform, now)

    @mongo.translated()
    def unregister(self, user_id: UserId, device_id: str) -> None:
        self._all.delete_one({"_id": device_id, "user_id": Int64(user_id)})

    @mongo.translated()
    def of_user(self, user_id: UserId) -> list[Device]:
        """List his devices, the one that registered last first."""
        found = self._all.find({"user_id": Int64(user_id)}).sort("registered_at", DESCENDING)
        return [_device(document) for document in found]

    @mongo.translated()
    def forget(self, device: Device) -> None:
        """Delete it, unless it was registered anew meanwhile."""
        self._all.delete_one({"_id": device.id, "registered_at": {"$lte": device.created_at}})


class MongoPreferences:
    """Answers service.ports.PreferencesStore; who chose nothing gets everything."""

    def __init__(self, database: Database[Document]) -> None:
        self._all = database[PREFERENCES]

    @mongo.translated()
    def of_user(self, user_id: UserId) -> Preferences:
        found = self._all.find_one({"_id": Int64(user_id)}) or {}
        return Preferences(email=found.get("email", True), push=found.get("push", True))

    @mongo.translated()
    def keep(self, user_id: UserId, preferences: Preferences) -> None:
        change = {"$set": {"email": preferences.email, "push": preferences.push}}
        self._all.update_one({"_id": Int64(user_id)}, change, upsert=True)


class MongoDeliveries:
    """Answers service.ports.Deliveries."""

    def __init__(self, database: Database[Document]) -> None:
        self._all = database[DELIVERIES]

    @mongo.translated()
    def done(self, key: str) -> bool:
        return self._all.find_one({"_id": key}) is not None

    @mongo.translated()
    def remember(self, key: str, *, now: datetime) -> None:
        try:
            self._all.insert_one({"_id": key, "at": now})
        except DuplicateKeyError:
            return


def _device(document: Mapping[str, Any]) -> Device:
    return Device(
        id=document["_id"],
        user_id=UserId(int(document["user_id"])),
        token=document["token"],
        platform=document.get("platform"),
        created_at=document["registered_at"],
    )
