"""The collection `notifications`, shared with what a JVM service stored.

Null fields are not written; an absent one reads as the model's default. Queries go by one indexed
owner at a time: an `$or` over two owners would keep a weaker server from using either index.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from heapq import merge
from typing import Any, Final

from bson import Int64, ObjectId
from bson.errors import BSONError, InvalidId
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from cloud.errors import InvalidError, UnavailableError
from cloud.stores import mongo
from cloud.stores.mongo import Document
from notification.domain import Audience, CustomerId, Draft, Notification, NotificationId, UserId

COLLECTION: Final = "notifications"
_DUPLICATE_KEY: Final = 11000
_REFUSED: Final = "the document store cannot hold this"
# What says something against the document (MongoDB manual, Error Codes): bad values and names,
# validation, size. Whatever else goes wrong may pass, and is waited for.
_AGAINST_IT: Final = frozenset({2, 9, 15, 22, 52, 53, 56, 57, 121, 10334, 17280, 17419, 17420})
# Read ahead for a reader: a cursor would take 16 MB at once.
_PIECE: Final = 100
_UNREAD: Final = {"read": False}
# A document that has no `read` at all is unread for the app, which looks at dates only.
_NOT_READ: Final = {"read": {"$ne": True}}
_NEWEST_FIRST: Final = [("created_at", DESCENDING), ("_id", DESCENDING)]
_OLDEST_FIRST: Final = [("created_at", ASCENDING)]


@mongo.translated()
def create_indexes(database: Database[Document]) -> None:
    """Create what queries and de-duplication stand on; nothing happens when it is there."""
    database[COLLECTION].create_indexes(
        [
            IndexModel([("customer_id", ASCENDING), ("created_at", DESCENDING)]),
            IndexModel([("customer_id", ASCENDING), ("read", ASCENDING)]),
            IndexModel([("user_id", ASCENDING), ("created_at", DESCENDING)]),
            IndexModel([("dedup_key", ASCENDING)], unique=True, sparse=True),
        ]
    )


class MongoNotifications:
    """Answers service.Notifications; a store that is away is an UnavailableError of each method."""

    def __init__(self, database: Database[Document]) -> None:
        self._all: Collection[Document] = database[COLLECTION]

    @mongo.translated()
    def add_many(
        self, drafts: Sequence[Draft], *, now: datetime
    ) -> list[tuple[Notification, bool]]:
        """Store; return each stored notification and whether it is new, in one write for all.

        The unique index decides, so two consumers with one event store one notification.

        Raises:
            InvalidError: one of them can never be stored; others may be stored by then.
        """
        documents = [document(draft, now) for draft in drafts]
        doubles = self._insert(documents)
        found = self._by_key([documents[index]["dedup_key"] for index in doubles])
        for index in doubles:
            # Deleted by its owner in this very moment: it was told, and stays deleted.
            documents[index] = found.get(documents[index]["dedup_key"], documents[index])
        return [
            (_notification(document), index not in doubles)
            for index, document in enumerate(documents)
        ]

    def _insert(self, documents: list[Document]) -> set[int]:
        """Insert what is new; return the places of the doubles."""
        try:
            self._all.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            faults = error.details["writeErrors"]
            others = {fault["code"] for fault in faults} - {_DUPLICATE_KEY}
            if error.details["writeConcernErrors"] or others - _AGAINST_IT:
                raise UnavailableError("the document store did not take all") from error
            if others:
                raise InvalidError(_REFUSED) from error
            return {fault["index"] for fault in faults}
        except (BSONError, OverflowError) as error:
            raise InvalidError(_REFUSED) from error
        return set()

    def _by_key(self, keys: Sequence[str]) -> dict[str, Document]:
        # One by one: a weaker server uses no index for `$in`, and doubles are rare.
        found = (self._all.find_one({"dedup_key": key}) for key in keys)
        return {document["dedup_key"]: document for document in found if document}

    @mongo.translated()
    def find(self, notification_id: NotificationId) -> Notification | None:
        key = _key(notification_id)
        found = None if key is None else self._all.find_one({"_id": key})
        return None if found is None else _notification(found)

    def moment_of(self, notification_id: NotificationId) -> datetime | None:
        """Return when it was stored, to the second once it is deleted; None for what is no id."""
        key = _key(notification_id)
        if key is None:
            return None
        found = self.find(notification_id)
        return key.generation_time if found is None else found.created_at

    @mongo.translated()
    def of_customer(
        self, customer_id: CustomerId, limit: int, *, unread: bool = False
    ) -> list[Notification]:
        """List the newest of one customer record."""
        wanted = {"customer_id": Int64(customer_id), **(_UNREAD if unread else {})}
        return self._newest(wanted, limit)

    @mongo.translated()
    def count_unread(self, customer_id: CustomerId) -> int:
        return self._all.count_documents({"customer_id": Int64(customer_id), **_UNREAD})

    @mongo.translated()
    def of_audience(self, audience: Audience, limit: int) -> list[Notification]:
        """List the newest of a user and of his customer records."""
        found = [note for owner in _owners(audience) for note in self._newest(owner, limit)]
        found.sort(key=lambda note: (note.created_at, note.id), reverse=True)
        return found[:limit]

    def since(self, audience: Audience, moment: datetime) -> Iterator[Notification]:
        """Yield what was stored from `moment` on, oldest first, as the store gives it."""
        # No pages: where many share one moment, a page has no place to go on from.
        with mongo.translated(), ExitStack() as cursors:
            found = [
                cursors.enter_context(
                    self._all.find({**owner, "created_at": {"$gte": moment}})
                    .sort(_OLDEST_FIRST)
                    .batch_size(_PIECE)
                )
                for owner in _owners(audience)
            ]
            for document in merge(*found, key=_moment):
                yield _notification(document)

    @mongo.translated()
    def mark_read(self, notification_id: NotificationId, *, now: datetime) -> None:
        """Set read and read_at; the first time counts."""
        change = {"$set": {"read": True, "read_at": now}}
        self._all.update_one({"_id": _key(notification_id), **_NOT_READ}, change)

    @mongo.translated()
    def mark_all_read(self, audience: Audience, *, now: datetime) -> None:
        for owner in _owners(audience):
            change = {"$set": {"read": True, "read_at": now}}
            self._all.update_many({**owner, **_NOT_READ}, change)

    @mongo.translated()
    def delete(self, notification_id: NotificationId) -> None:
        self._all.delete_one({"_id": _key(notification_id)})

    @mongo.translated()
    def delete_read(self, audience: Audience) -> None:
        for owner in _owners(audience):
            self._all.delete_many({**owner, "read": True})

    def _newest(self, wanted: Mapping[str, Any], limit: int) -> list[Notification]:
        found = self._all.find(wanted).sort(_NEWEST_FIRST).limit(limit)
        return [_notification(document) for document in found]


def _owners(audience: Audience) -> Iterator[dict[str, Any]]:
    yield {"user_id": Int64(audience.user_id)}
    for customer_id in audience.customers:
        yield {"customer_id": Int64(customer_id), "user_id": None}


def _moment(document: Mapping[str, Any]) -> datetime:
    moment: datetime = document["created_at"]
    return moment


def _key(notification_id: NotificationId) -> ObjectId | None:
    try:
        return ObjectId(notification_id)
    except InvalidId:
        return None


def document(draft: Draft, now: datetime) -> Document:
    """Spell a draft as the collection keeps it, without an id."""
    fields: Document = {
        "user_id": None if draft.user_id is None else Int64(draft.user_id),
        "customer_id": None if draft.customer_id is None else Int64(draft.customer_id),
        "type": draft.type,
        "title": draft.title,
        "description": draft.description,
        "deep_link": draft.deep_link,
        "image_url": draft.image_url,
        "metadata": None if draft.metadata is None else dict(draft.metadata),
        "dedup_key": draft.dedup_key,
        "read": False,
        # What the store can hold, so that the stored and the read one are equal.
        "created_at": now.replace(microsecond=now.microsecond // 1000 * 1000),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _notification(document: Mapping[str, Any]) -> Notification:
    user, customer = document.get("user_id"), document.get("customer_id")
    key = document["_id"]
    created = document.get("created_at")
    if created is None:
        created = key.generation_time
    read = bool(document.get("read"))
    return Notification(
        id=NotificationId(str(key)),
        user_id=None if user is None else UserId(int(user)),
        customer_id=None if customer is None else CustomerId(int(customer)),
        type=document.get("type"),
        title=document.get("title"),
        description=document.get("description"),
        deep_link=document.get("deep_link"),
        image_url=document.get("image_url"),
        metadata=document.get("metadata"),
        read=read,
        # A JVM service keeps no such date, and for the app its absence means unread.
        read_at=document.get("read_at") or (created if read else None),
        created_at=created,
    )
