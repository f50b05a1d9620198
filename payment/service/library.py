"""The library: what somebody has bought, and the free titles he added."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cloud.errors import CloudError
from payment.domain import (
    MovieId,
    NotBoughtError,
    Purchase,
    Title,
    UnknownPurchaseError,
    UserId,
)
from payment.service.ports import Library, Movies

_MOST = 200
_PATIENCE = timedelta(seconds=2)


def purchases(
    user_id: UserId, *, library: Library, movies: Movies, now: Callable[[], datetime]
) -> list[Purchase]:
    """List what is not hidden, newest first."""
    listed = [each for each in library.of_user(user_id) if not each.is_hidden]
    return _described(listed[:_MOST], movies, now)


def owned(
    user_id: UserId,
    movie_id: MovieId,
    *,
    library: Library,
    movies: Movies,
    now: Callable[[], datetime],
) -> Purchase:
    """Return one title of the library, hidden or not.

    Raises:
        UnknownPurchaseError: it is not there.
    """
    found = library.find(user_id, movie_id)
    if found is None:
        raise UnknownPurchaseError("this title is not in the library")
    return _described([found], movies, now)[0]


def add(
    user_id: UserId,
    movie_id: MovieId,
    *,
    is_downloaded: bool,
    is_finished: bool,
    library: Library,
    movies: Movies,
    now: Callable[[], datetime],
) -> Purchase:
    """Put a title that is free or paid into the list; it grants nothing.

    Raises:
        UnknownMovieError: the catalogue has no such title.
        NotBoughtError: it is neither free nor paid.
    """
    title = movies.get(movie_id)
    found = library.find(user_id, movie_id)
    is_free = title.access == "FREE"
    if not is_free and (found is None or found.transaction_id is None):
        raise NotBoughtError("this title is neither free nor bought")
    library.add(
        user_id,
        title,
        is_free=is_free,
        is_downloaded=is_downloaded,
        is_finished=is_finished,
        now=now(),
    )
    return owned(user_id, movie_id, library=library, movies=movies, now=now)


def hide(user_id: UserId, movie_id: MovieId, *, library: Library, now: datetime) -> None:
    """Leave a title out of the list; what was bought stays bought."""
    found = library.find(user_id, movie_id)
    if found is not None:
        library.hide(user_id, found, now=now)


def _described(
    found: Sequence[Purchase], movies: Movies, now: Callable[[], datetime]
) -> list[Purchase]:
    """Ask the catalogue about what only a JVM service has recorded, as far as it answers."""
    deadline = now() + _PATIENCE
    return [each if each.title else _asked(each, movies, deadline) for each in found]


def _asked(purchase: Purchase, movies: Movies, deadline: datetime) -> Purchase:
    try:
        title: Title | None = movies.get(purchase.movie_id, deadline=deadline)
    except CloudError:
        title = None  # a library without a picture is better than none
    return replace(purchase, title=title)
