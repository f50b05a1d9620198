"""Collection `views`: who watched what of late, so that a view counts once."""

import hashlib
from datetime import datetime, timedelta

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from movie.domain import MovieId
from movie.store.documents import Document


class MongoViews:
    """One document for a viewer and a title; an index lets old ones expire."""

    def __init__(self, database: Database[Document], window: timedelta) -> None:
        self._views = database["views"]
        self._window = window

    def is_first(self, movie_id: MovieId, viewer: str, *, now: datetime) -> bool:
        """Note a view; False when the same viewer was noted within the window.

        Check and write are one statement: of two at once, one counts. The viewer himself is not
        kept, only a digest.
        """
        key = hashlib.sha256(f"{movie_id} {viewer}".encode()).hexdigest()
        old = {"_id": key, "at": {"$lte": now - self._window}}
        try:
            self._views.update_one(old, {"$set": {"at": now}}, upsert=True)
        except DuplicateKeyError:
            return False
        return True
