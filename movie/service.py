"""Use cases of the catalogue, and what they ask of others."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import structlog

from cloud.errors import UnavailableError
from cloud.security import Principal
from movie.domain import (
    AccessType,
    Filters,
    Movie,
    MovieDraft,
    MovieId,
    MovieNotFoundError,
    NotEntitledError,
    Page,
    Stream,
    TokenNeededError,
    Window,
    stream,
    words,
)

log = structlog.get_logger()

EDITORS = ("ADMIN", "MODERATOR")
_SUBSCRIBERS = ("PREMIUM", "VIP")
_LONGEST_QUERY = 100


class Catalogue(Protocol):  # answered by movie.store.MongoCatalogue
    """Stored titles."""

    def page(self, filters: Filters, window: Window) -> Page: ...
    def find(self, movie_id: str) -> Movie | None: ...
    def find_by_slug(self, slug: str) -> Movie | None: ...
    def create(self, draft: MovieDraft, *, now: datetime) -> Movie: ...
    def update(self, movie_id: str, draft: MovieDraft, *, now: datetime) -> Movie | None: ...
    def delete(self, movie_id: str) -> bool: ...
    def count_view(self, movie_id: MovieId) -> None: ...


class Views(Protocol):  # answered by movie.store.MongoViews
    """Who watched what of late."""

    def is_first(self, movie_id: MovieId, viewer: str, *, now: datetime) -> bool: ...


class Changes(Protocol):  # answered by movie.events.Announcer
    """Those who keep copies."""

    def movie_changed(self, movie_id: str, slug: str | None, *, now: datetime) -> None: ...


class Memberships(Protocol):  # answered by movie.clients.CustomerClient
    """Customer records; both raise UnavailableError when nobody can say."""

    def is_subscribed(self, viewer: Principal) -> bool: ...
    def customer_id(self, viewer: Principal) -> int | None: ...


class Purchases(Protocol):  # answered by movie.clients.PaymentClient
    """What was paid for; raises UnavailableError when nobody can say."""

    def has_bought(self, viewer: Principal, customer_id: int, movie_id: MovieId) -> bool: ...


@dataclass(frozen=True, slots=True)
class Paywall:
    """Decides who gets the streaming addresses of a title.

    Attributes:
        open_links: everybody does, as with the JVM service.
    """

    memberships: Memberships
    purchases: Purchases
    open_links: bool = False

    def admits(self, viewer: Principal | None, movie: Movie) -> bool:
        """Tell whether `viewer` may watch `movie`.

        Raises:
            UnavailableError: a neighbour that knows is away.
        """
        if self.open_links or movie.is_open:
            return True
        if viewer is None:
            return False
        if viewer.has_role(*EDITORS):
            return True
        match movie.access_type:
            case AccessType.PREMIUM:
                return viewer.has_role(*_SUBSCRIBERS) or self.memberships.is_subscribed(viewer)
            case AccessType.RENTAL:
                customer = self.memberships.customer_id(viewer)
                return customer is not None and self.purchases.has_bought(
                    viewer, customer, movie.id
                )
            case _:
                return False

    def ensure_admits(self, viewer: Principal | None, movie: Movie) -> None:
        """Raise unless `viewer` may watch `movie`.

        Raises:
            TokenNeededError: a paid title, and nobody signed in.
            NotEntitledError: he has not paid for it.
            UnavailableError: a neighbour that knows is away.
        """
        if self.admits(viewer, movie):
            return
        if viewer is None:
            raise TokenNeededError("Sign in to watch this title")
        raise NotEntitledError(
            "Rent this title to watch it"
            if movie.access_type is AccessType.RENTAL
            else "This title needs a premium membership"
        )


def listed(text: str | None, filters: Filters, window: Window, *, catalogue: Catalogue) -> Page:
    """List what the filters leave; blank text searches nothing."""
    query = (text or "").strip()[:_LONGEST_QUERY]
    found = Filters(
        type=filters.type,
        genre=filters.genre,
        country=filters.country,
        year=filters.year,
        words=words(query) if query else None,
    )
    return catalogue.page(found, window)


def get_by_id(movie_id: str, *, catalogue: Catalogue) -> Movie:
    """Find a title.

    Raises:
        MovieNotFoundError: there is none with this id.
    """
    return _existing(catalogue.find(movie_id))


def get_by_slug(slug: str, *, catalogue: Catalogue) -> Movie:
    """Find a title.

    Raises:
        MovieNotFoundError: there is none with this slug.
    """
    return _existing(catalogue.find_by_slug(slug))


def shown(movie: Movie, viewer: Principal | None, *, paywall: Paywall) -> Movie:
    """Blank the streaming addresses for those who are not entitled, or while nobody can say."""
    try:
        admitted = paywall.admits(viewer, movie)
    except UnavailableError as error:
        log.warning("entitlement_unknown", movie_id=movie.id, reason=str(error))
        admitted = False
    return movie if admitted else movie.without_links()


def play(
    movie: Movie, viewer: Principal | None, server: int, episode: int, *, paywall: Paywall
) -> Stream:
    """Choose what to play; raises as `Paywall.ensure_admits`."""
    paywall.ensure_admits(viewer, movie)
    return stream(movie, server, episode)


def episodes(movie: Movie, viewer: Principal | None, *, paywall: Paywall) -> Movie:
    """Hand out all addresses; raises as `Paywall.ensure_admits`."""
    paywall.ensure_admits(viewer, movie)
    return movie


def view(movie: Movie, viewer: str, *, catalogue: Catalogue, views: Views, now: datetime) -> None:
    """Count one view; the same viewer counts again only after a while."""
    if views.is_first(movie.id, viewer, now=now):
        catalogue.count_view(movie.id)


def create(draft: MovieDraft, *, catalogue: Catalogue, changes: Changes, now: datetime) -> Movie:
    """Add a title; without an access type the price decides.

    Raises:
        SlugTakenError: another title has the slug.
    """
    access = draft.access_type or AccessType.default(draft.price)
    movie = catalogue.create(replace(draft, access_type=access), now=now)
    changes.movie_changed(movie.id, movie.slug, now=now)
    return movie


def update(
    movie_id: str, draft: MovieDraft, *, catalogue: Catalogue, changes: Changes, now: datetime
) -> Movie:
    """Replace the editable fields.

    Raises:
        MovieNotFoundError: there is none with this id.
        SlugTakenError: another title has the slug.
    """
    movie = _existing(catalogue.update(movie_id, draft, now=now))
    changes.movie_changed(movie.id, movie.slug, now=now)
    return movie


def delete(movie_id: str, *, catalogue: Catalogue, changes: Changes, now: datetime) -> None:
    """Delete a title.

    Raises:
        MovieNotFoundError: there is none with this id.
    """
    if not catalogue.delete(movie_id):
        raise MovieNotFoundError("Movie not found")
    changes.movie_changed(movie_id, None, now=now)


def _existing(movie: Movie | None) -> Movie:
    if movie is None:
        raise MovieNotFoundError("Movie not found")
    return movie
