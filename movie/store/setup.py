"""Indexes, created before anything is loaded and safe to create again."""

from datetime import timedelta
from typing import Final

import structlog
from pymongo import ASCENDING, DESCENDING
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from movie.store.catalogue import MongoCatalogue
from movie.store.documents import Document

log = structlog.get_logger()

_PLAIN: Final = (
    [("updatedAt", DESCENDING), ("_id", DESCENDING)],
    [("view", DESCENDING)],
    [("type", ASCENDING)],
    [("category.slug", ASCENDING)],
    [("country.slug", ASCENDING)],
    [("year", ASCENDING)],
    [("searchTerms", ASCENDING)],
    [("accessType", ASCENDING), ("_id", DESCENDING)],
)


def prepare(database: Database[Document], *, view_window: timedelta) -> None:
    """Create the indexes, then take in what other writers left."""
    for name in ("movies", "genres", "countries"):
        _ensure_unique_slugs(database, name)
    for keys in _PLAIN:
        database["movies"].create_index(keys)
    _ensure_views_expire(database, view_window)
    catalogue = MongoCatalogue(database, adopt_interval=timedelta(0))
    while catalogue.adopt():
        pass


def _ensure_unique_slugs(database: Database[Document], name: str) -> None:
    """Create the index `slug`; old duplicates are reported and lived with.

    Sparse, because a document without a slug is a document too.
    """
    try:
        database[name].create_index("slug", name="slug", unique=True, sparse=True)
    except DuplicateKeyError:
        log.error("slugs_not_unique", collection=name)  # noqa: TRY400 - the cause says no more
    except OperationFailure as error:
        # Somebody created it with other options, for example Spring Data.
        log.warning("index_kept_as_it_is", collection=name, index="slug", code=error.code)


def _ensure_views_expire(database: Database[Document], window: timedelta) -> None:
    """Let noted views expire; a changed window needs a new index."""
    seconds = int(window.total_seconds())
    views = database["views"]
    found = views.index_information().get("at_1")
    if found and found.get("expireAfterSeconds") != seconds:
        views.drop_index("at_1")
    views.create_index("at", expireAfterSeconds=seconds)
