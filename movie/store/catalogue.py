"""Collections `movies`, `genres` and `countries`."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from bson import ObjectId
from bson.int64 import Int64
from pymongo import DESCENDING, ReturnDocument, UpdateOne
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from movie.domain import (
    AccessType,
    Filters,
    Movie,
    MovieDraft,
    MovieId,
    NamedRef,
    Page,
    SlugTakenError,
    Window,
    search_terms,
)
from movie.store.documents import (
    CLASS,
    Document,
    draft_fields,
    integer,
    moment,
    movie_of,
    named,
    object_id,
    text,
    texts,
)

Order = list[tuple[str, int]]

_UPDATED: Final[Order] = [("updatedAt", DESCENDING), ("_id", DESCENDING)]
_LIST_FIELDS: Final = [
    "name",
    "originName",
    "slug",
    "thumbUrl",
    "posterUrl",
    "type",
    "quality",
    "lang",
    "year",
    "view",
    "time",
    "episodeCurrent",
    "tmdbRating",
    "imdbRating",
    "tmdb.voteAverage",
    "imdb.voteAverage",
    "category",
    "country",
    "accessType",
]
_ADOPTED_AT_ONCE: Final = 500
_ADOPTED_BY: Final = [
    "name",
    "originName",
    "alternativeNames",
    "modifiedAt",
    "createdAt",
    "updatedAt",
]


class MongoCatalogue:
    """Titles and what they are filtered by.

    Args:
        adopt_interval: how often reads look for documents that other writers left.
    """

    def __init__(
        self,
        database: Database[Document],
        *,
        adopt_interval: timedelta,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._movies = database["movies"]
        self._genres = database["genres"]
        self._countries = database["countries"]
        self._interval = adopt_interval.total_seconds()
        self._monotonic = monotonic
        self._adopted_at = float("-inf")

    def page(self, filters: Filters, window: Window) -> Page:
        """List by last change, or with words by how well they match, then by views."""
        self._adopt_sometimes()
        query = {
            name: value
            for name, value in (
                ("type", filters.type),
                ("category.slug", filters.genre),
                ("country.slug", filters.country),
                ("year", filters.year),
            )
            if value is not None
        }
        if filters.words is None:
            return self._listed(query, _UPDATED, window)
        return self._matching(filters.words, query, window)

    def latest(self, window: Window) -> Page:
        return self._listed({}, [("_id", DESCENDING)], window)

    def free(self, window: Window) -> tuple[Movie, ...]:
        free = {"accessType": AccessType.FREE.value}
        return self._items(free, [("_id", DESCENDING)], window)

    def trending(self, count: int) -> tuple[Movie, ...]:
        return self._items({}, [("view", DESCENDING), ("_id", DESCENDING)], Window(1, count))

    def find(self, movie_id: str) -> Movie | None:
        key = object_id(movie_id)
        document = self._movies.find_one({"_id": key}) if key else None
        return movie_of(document) if document else None

    def find_by_slug(self, slug: str) -> Movie | None:
        """Find the newest, should documents share a slug that no index guarded."""
        document = self._movies.find_one({"slug": slug}, sort=[("_id", DESCENDING)])
        return movie_of(document) if document else None

    def genres(self) -> tuple[NamedRef, ...]:
        return tuple(named(document) for document in self._genres.find().sort("name"))

    def countries(self) -> tuple[NamedRef, ...]:
        return tuple(named(document) for document in self._countries.find().sort("name"))

    def years(self) -> tuple[int, ...]:
        found = self._movies.distinct("year")
        years = {integer(year) for year in found if _is_number(year)}
        return tuple(sorted((year for year in years if year is not None), reverse=True))

    def create(self, draft: MovieDraft, *, now: datetime) -> Movie:
        """Store a new title.

        Raises:
            SlugTakenError: another movie has the slug; of two at once, one stays.
        """
        stored = {name: value for name, value in draft_fields(draft).items() if value is not None}
        document: Document = {
            "_id": ObjectId(),
            **stored,
            "view": Int64(0),
            "searchTerms": list(search_terms([draft.name, draft.origin_name])),
            "source": "MANUAL",
            "createdAt": now,
            "updatedAt": now,
            "_class": CLASS,
        }
        self._ensure_free(draft.slug, document["_id"])
        try:
            self._movies.insert_one(document)
        except DuplicateKeyError as error:
            raise _taken(draft.slug) from error
        return movie_of(document)

    def update(self, movie_id: str, draft: MovieDraft, *, now: datetime) -> Movie | None:
        """Write the draft's fields and no other; None when there is no such movie.

        Raises:
            SlugTakenError: another movie has the slug.
        """
        key = object_id(movie_id)
        old = self._movies.find_one({"_id": key}, ["alternativeNames"]) if key else None
        if old is None:
            return None
        self._ensure_free(draft.slug, old["_id"])
        names = [draft.name, draft.origin_name, *(texts(old.get("alternativeNames")) or ())]
        values = draft_fields(draft)
        if draft.access_type is None:
            del values["accessType"]
        absent = {name: "" for name, value in values.items() if value is None}
        change: Document = {
            "$set": {name: value for name, value in values.items() if value is not None}
            | {"searchTerms": list(search_terms(names)), "updatedAt": now}
        }
        if absent:
            change["$unset"] = absent
        try:
            document = self._movies.find_one_and_update(
                {"_id": old["_id"]}, change, return_document=ReturnDocument.AFTER
            )
        except DuplicateKeyError as error:
            raise _taken(draft.slug) from error
        return movie_of(document) if document else None

    def delete(self, movie_id: str) -> bool:
        key = object_id(movie_id)
        return key is not None and self._movies.delete_one({"_id": key}).deleted_count == 1

    def count_view(self, movie_id: MovieId) -> None:
        self._movies.update_one({"_id": ObjectId(movie_id)}, {"$inc": {"view": Int64(1)}})

    def adopt(self) -> int:
        """Give documents of other writers what search and order need; return how many.

        The import tool writes neither `searchTerms` nor `updatedAt`, and a JVM movie service
        drops `searchTerms` whenever it counts a view.
        """
        left = {"$or": [{"searchTerms": None}, {"updatedAt": None}]}
        changes = [
            _adoption(document)
            for document in self._movies.find(left, _ADOPTED_BY).limit(_ADOPTED_AT_ONCE)
        ]
        return self._movies.bulk_write(changes, ordered=False).matched_count if changes else 0

    def _adopt_sometimes(self) -> None:
        now = self._monotonic()
        if now - self._adopted_at >= self._interval:
            self._adopted_at = now
            self.adopt()

    def _ensure_free(self, slug: str, own: ObjectId) -> None:
        """Refuse a taken slug, even while old duplicates keep the unique index from existing."""
        if self._movies.find_one({"slug": slug, "_id": {"$ne": own}}, ["_id"]):
            raise _taken(slug)

    def _items(self, query: Document, order: Order, window: Window) -> tuple[Movie, ...]:
        found = self._movies.find(query, _LIST_FIELDS).sort(order)
        return tuple(map(movie_of, found.skip(window.skip).limit(window.size)))

    def _listed(self, query: Document, order: Order, window: Window) -> Page:
        items = self._items(query, order, window)
        return Page(items, window, self._movies.count_documents(query))

    def _matching(self, words: tuple[str, ...], query: Document, window: Window) -> Page:
        if not words:
            return Page((), window, 0)
        # Words hold letters and digits only: nothing in them means anything to an expression.
        starts = [{"searchTerms": {"$regex": f"^{word}"}} for word in words]
        query = {"$and": [query, *starts]}
        whole = {"$size": {"$setIntersection": ["$searchTerms", list(words)]}}
        found = self._movies.aggregate(
            [
                {"$match": query},
                {"$project": {**dict.fromkeys(_LIST_FIELDS, 1), "whole": whole}},
                {"$sort": {"whole": DESCENDING, "view": DESCENDING, "_id": DESCENDING}},
                {"$skip": window.skip},
                {"$limit": window.size},
            ]
        )
        return Page(tuple(map(movie_of, found)), window, self._movies.count_documents(query))


def _adoption(document: Document) -> UpdateOne:
    """Fill what is missing, unless its writer filled it meanwhile."""
    names = [text(document.get("name")), text(document.get("originName"))]
    terms = search_terms([*names, *(texts(document.get("alternativeNames")) or ())])
    changed = moment(document.get("modifiedAt")) or moment(document.get("createdAt"))
    updated_at = moment(document.get("updatedAt")) or changed or _born(document["_id"])
    same = {name: document.get(name) for name in ("_id", "name", "originName", "updatedAt")}
    return UpdateOne(same, {"$set": {"searchTerms": list(terms), "updatedAt": updated_at}})


def _born(key: object) -> datetime:
    return key.generation_time if isinstance(key, ObjectId) else datetime.fromtimestamp(0, UTC)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _taken(slug: str) -> SlugTakenError:
    return SlugTakenError(f"Slug {slug} is already taken")
