"""Films and series, who may watch them, and how they are found."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NewType

from cloud.errors import DeniedError, InvalidError, NotFoundError, UnauthenticatedError

MovieId = NewType("MovieId", str)  # 24 hex digits of an ObjectId


class MovieNotFoundError(NotFoundError):
    """No movie with this id or slug."""


class SlugTakenError(InvalidError):
    """Another movie has this slug."""


class TokenNeededError(UnauthenticatedError):
    """A paid title, asked for by nobody in particular."""


class NotEntitledError(DeniedError):
    """A paid title that this caller has not paid for."""


class AccessType(StrEnum):
    """What opens a title; a closed list, JVM readers fail on anything else."""

    FREE = "FREE"
    PREMIUM = "PREMIUM"
    RENTAL = "RENTAL"

    @classmethod
    def default(cls, price: Decimal) -> "AccessType":
        """Give a priced title to those who pay for it, any other one to everybody."""
        return cls.RENTAL if price > 0 else cls.FREE


@dataclass(frozen=True, slots=True)
class NamedRef:
    """A genre or country, by itself or inside a movie."""

    id: str | None
    name: str | None
    slug: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One part of a series, or the whole of a film."""

    name: str | None
    slug: str | None
    filename: str | None
    link_embed: str | None
    link_m3u8: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeServer:
    """Episodes as one host serves them."""

    server_name: str | None
    is_ai: bool | None
    server_data: tuple[Episode, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Movie:
    """A stored title; None where the document says nothing.

    Attributes:
        price: US dollars, with the scale it was stored with.
        access_type: None for a stored null; `locked` tells a value outside the list.
        tmdb_rating, imdb_rating: 0 to 10.
        created_at, updated_at: aware, UTC.
    """

    id: MovieId
    external_id: str | None = None
    name: str | None = None
    origin_name: str | None = None
    slug: str | None = None
    content: str | None = None
    thumb_url: str | None = None
    poster_url: str | None = None
    trailer_url: str | None = None
    type: str | None = None
    status: str | None = None
    quality: str | None = None
    lang: str | None = None
    year: int | None = None
    view: int | None = 0
    time: str | None = None
    episode_current: str | None = None
    episode_total: str | None = None
    price: Decimal | None = Decimal(0)
    access_type: AccessType | None = AccessType.FREE
    tmdb_rating: float | None = None
    imdb_rating: float | None = None
    category: tuple[NamedRef, ...] | None = None
    country: tuple[NamedRef, ...] | None = None
    alternative_names: tuple[str, ...] | None = None
    actor: tuple[str, ...] | None = None
    director: tuple[str, ...] | None = None
    episodes: tuple[EpisodeServer, ...] | None = None
    custom_hls_url: str | None = None
    custom_hls_source: str | None = None
    lang_key: tuple[str, ...] | None = None
    sub_docquyen: bool | None = None
    chieu_rap: bool | None = None
    source: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    locked: bool = False

    @property
    def is_open(self) -> bool:
        """Whether anybody may watch it; what we cannot read, we do not give away."""
        return not self.locked and self.access_type in (AccessType.FREE, None)

    def without_links(self) -> "Movie":
        """Blank the streaming addresses, for callers who are not entitled to them."""
        blank = [
            replace(
                server,
                server_data=server.server_data
                and tuple(
                    replace(episode, link_embed=None, link_m3u8=None)
                    for episode in server.server_data
                ),
            )
            for server in self.episodes or ()
        ]
        return replace(self, custom_hls_url=None, episodes=self.episodes and tuple(blank))


@dataclass(frozen=True, slots=True, kw_only=True)
class MovieDraft:
    """What an editor may write; None where he left a field empty.

    Attributes:
        access_type: None keeps the stored one, or follows the price of a new title.
    """

    name: str
    slug: str
    origin_name: str | None
    content: str | None
    poster_url: str | None
    thumb_url: str | None
    trailer_url: str | None
    type: str | None
    status: str | None
    quality: str | None
    lang: str | None
    year: int | None
    time: str | None
    episode_current: str | None
    episode_total: str | None
    price: Decimal
    access_type: AccessType | None
    tmdb_rating: float | None
    imdb_rating: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a list is narrowed to; None narrows nothing, an empty `words` finds nothing."""

    type: str | None = None
    genre: str | None = None
    country: str | None = None
    year: int | None = None
    words: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """One page of a list: `page` counts from 1."""

    page: int
    size: int

    @property
    def skip(self) -> int:
        return (self.page - 1) * self.size


@dataclass(frozen=True, slots=True)
class Page:
    """A window's movies, and how many there are in all."""

    items: tuple[Movie, ...]
    window: Window
    total: int

    @property
    def pages(self) -> int:
        return -(-self.total // self.window.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """What a player needs; all None for a title without episodes."""

    movie: Movie
    server_name: str | None = None
    episode_name: str | None = None
    episode_slug: str | None = None
    m3u8_url: str | None = None
    embed_url: str | None = None
    custom_hls: bool = False


def stream(movie: Movie, server: int, episode: int) -> Stream:
    """Choose what to play; an index that is out of range is taken as 0."""
    if server == 0 and episode == 0 and movie.custom_hls_url:
        return Stream(
            movie=movie,
            server_name="Custom",
            episode_name="Full",
            episode_slug="full",
            m3u8_url=movie.custom_hls_url,
            custom_hls=True,
        )
    servers = movie.episodes or ()
    if not servers:
        return Stream(movie=movie)
    host = servers[server] if 0 <= server < len(servers) else servers[0]
    parts = host.server_data or ()
    if not parts:
        return Stream(movie=movie)
    part = parts[episode] if 0 <= episode < len(parts) else parts[0]
    return Stream(
        movie=movie,
        server_name=host.server_name,
        episode_name=part.name,
        episode_slug=part.slug,
        m3u8_url=part.link_m3u8,
        embed_url=part.link_embed,
    )


def words(text: str) -> tuple[str, ...]:
    """Split text into its different words, folded: lower case, without diacritics, đ as d."""
    plain = unicodedata.normalize("NFD", text.lower().replace("đ", "d"))
    folded = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return tuple(dict.fromkeys(re.findall(r"[^\W_]+", folded)))


def search_terms(names: Iterable[str | None]) -> tuple[str, ...]:
    """Collect the words by which a title with these names is found."""
    return words(" ".join(name for name in names if name))
