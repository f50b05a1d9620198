"""Shapes of the catalogue's bodies."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlsplit

import nh3
from pydantic import AfterValidator, Field

from cloud.envelope import local_date_time
from cloud.schema import Body, Money, NotBlank, Text
from movie.domain import (
    AccessType,
    EpisodeServer,
    Movie,
    MovieDraft,
    NamedRef,
    Page,
    Stream,
)


def _address(value: str | None) -> str | None:
    """Let http and https addresses pass, and nothing that a browser would run."""
    if not value:
        return value
    try:
        parts = urlsplit(value)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        fits = False
    if not fits or re.search(r"[\s\x00-\x1f<>\"]", value):
        raise ValueError("must be an http or https address")
    return value


def _harmless(value: str | None) -> str | None:
    """Take scripts and event attributes out of markup; text without markup stays as typed."""
    return nh3.clean(value, link_rel=None) if value and "<" in value else value


Address = Annotated[str | None, Text(2048), AfterValidator(_address)]
Short = Annotated[str | None, Text(255)]
Rating = Annotated[float | None, Field(allow_inf_nan=False)]


class MovieRequest(Body):
    """What an editor sends to create or replace a title."""

    name: Annotated[NotBlank, Text(500)]
    slug: Annotated[NotBlank, Text(255)]
    origin_name: Annotated[str | None, Text(500)] = None
    content: Annotated[str | None, Text(20000), AfterValidator(_harmless)] = None
    poster_url: Address = None
    thumb_url: Address = None
    trailer_url: Address = None
    type: Short = None
    status: Short = None
    quality: Short = None
    lang: Short = None
    year: Annotated[int | None, Field(ge=1900, le=2100)] = None
    time: Short = None
    episode_current: Short = None
    episode_total: Short = None
    # What a transaction could not charge is no price.
    price: Annotated[Money, Field(ge=0)] | None = None
    access_type: AccessType | None = None
    tmdb_rating: Rating = None
    imdb_rating: Rating = None

    def draft(self) -> MovieDraft:
        """Make the draft that the catalogue writes; a missing price is 0."""
        values = {field.name: getattr(self, field.name) for field in fields(MovieDraft)}
        return MovieDraft(
            **values | {"price": Decimal(0) if self.price is None else abs(self.price)}
        )


def dump_page(page: Page) -> dict[str, Any]:
    """Spell a page; `page` counts from 1."""
    return {
        "items": dump_items(page.items),
        "page": page.window.page,
        "size": page.window.size,
        "totalItems": page.total,
        "totalPages": page.pages,
    }


def dump_items(movies: Iterable[Movie]) -> list[dict[str, Any]]:
    """Spell titles as lists show them."""
    return [_item(movie) for movie in movies]


def dump_movie(movie: Movie) -> dict[str, Any]:
    """Spell a title as its own page shows it."""
    return _item(movie) | {
        "externalId": movie.external_id,
        "content": movie.content,
        "trailerUrl": movie.trailer_url,
        "status": movie.status,
        "episodeTotal": movie.episode_total,
        "price": movie.price,
        "alternativeNames": movie.alternative_names,
        "actor": movie.actor,
        "director": movie.director,
        "episodes": None if movie.episodes is None else list(map(_stored_server, movie.episodes)),
        "customHlsUrl": movie.custom_hls_url,
        "customHlsSource": movie.custom_hls_source,
    }


def dump_document(movie: Movie) -> dict[str, Any]:
    """Spell the stored document, for those who edit it."""
    return dump_movie(movie) | {
        "langKey": movie.lang_key,
        "subDocquyen": movie.sub_docquyen,
        "chieuRap": movie.chieu_rap,
        "source": movie.source,
        "createdAt": movie.created_at and local_date_time(movie.created_at),
        "updatedAt": movie.updated_at and local_date_time(movie.updated_at),
    }


def dump_stream(stream: Stream) -> dict[str, Any]:
    """Spell what a player needs."""
    return {
        "movieId": stream.movie.id,
        "movieName": stream.movie.name,
        "serverName": stream.server_name,
        "episodeName": stream.episode_name,
        "episodeSlug": stream.episode_slug,
        "m3u8Url": stream.m3u8_url,
        "embedUrl": stream.embed_url,
        "customHls": stream.custom_hls,
    }


def dump_episodes(movie: Movie) -> dict[str, Any]:
    """Spell all servers of a title; `ai` is what JVM readers know, `isAi` its documented name."""
    return {
        "movieId": movie.id,
        "movieName": movie.name,
        "customHlsUrl": movie.custom_hls_url,
        "servers": [
            {
                "serverName": server.server_name,
                "ai": bool(server.is_ai),
                "isAi": bool(server.is_ai),
                "episodes": [
                    {
                        "name": part.name,
                        "slug": part.slug,
                        "m3u8Url": part.link_m3u8,
                        "embedUrl": part.link_embed,
                    }
                    for part in server.server_data or ()
                ],
            }
            for server in movie.episodes or ()
        ],
    }


def dump_refs(refs: Iterable[NamedRef]) -> list[Mapping[str, Any]]:
    """Spell genres or countries."""
    return [{"id": ref.id, "name": ref.name, "slug": ref.slug} for ref in refs]


def _item(movie: Movie) -> dict[str, Any]:
    return {
        "id": movie.id,
        "name": movie.name,
        "originName": movie.origin_name,
        "slug": movie.slug,
        "thumbUrl": movie.thumb_url,
        "posterUrl": movie.poster_url,
        "type": movie.type,
        "quality": movie.quality,
        "lang": movie.lang,
        "year": movie.year,
        "view": movie.view,
        "time": movie.time,
        "episodeCurrent": movie.episode_current,
        "tmdbRating": movie.tmdb_rating,
        "imdbRating": movie.imdb_rating,
        "category": None if movie.category is None else dump_refs(movie.category),
        "country": None if movie.country is None else dump_refs(movie.country),
        "accessType": movie.access_type,
    }


def _stored_server(server: EpisodeServer) -> dict[str, Any]:
    parts = server.server_data
    return {
        "serverName": server.server_name,
        "isAi": server.is_ai,
        "serverData": None
        if parts is None
        else [
            {
                "name": part.name,
                "slug": part.slug,
                "filename": part.filename,
                "linkEmbed": part.link_embed,
                "linkM3u8": part.link_m3u8,
            }
            for part in parts
        ],
    }
