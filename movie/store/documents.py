"""Between BSON and values, by the rules of Spring Data's mapper.

A null is not written; an absent field reads as the model's default; an amount is text. Reading
takes what it finds: the import tool and hand-made documents hold numbers where text belongs.
"""

import re
from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from bson import ObjectId
from bson.decimal128 import Decimal128

from cloud.schema import is_int64
from movie.domain import (
    AccessType,
    Episode,
    EpisodeServer,
    Movie,
    MovieDraft,
    MovieId,
    NamedRef,
)

Document = dict[str, Any]

CLASS: Final = "com.nozie.movieservice.common.model.Movie"
SOURCES: Final = frozenset({"OPHIM", "MANUAL"})
_TEXTS: Final = [
    "external_id",
    "name",
    "origin_name",
    "slug",
    "content",
    "thumb_url",
    "poster_url",
    "trailer_url",
    "type",
    "status",
    "quality",
    "lang",
    "time",
    "episode_current",
    "episode_total",
    "custom_hls_url",
    "custom_hls_source",
]
_LISTS: Final = ("alternative_names", "actor", "director", "lang_key")


def camel(name: str) -> str:
    """Spell a field as the documents do: `thumb_url` is `thumbUrl`."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def object_id(text: str) -> ObjectId | None:
    """Read 24 hex digits; anything else names no document."""
    return ObjectId(text) if re.fullmatch(r"[0-9a-fA-F]{24}", text, re.ASCII) else None


def draft_fields(draft: MovieDraft) -> Document:
    """Spell a draft's fields as stored ones, None where the stored field shall be absent."""
    values = {camel(field.name): getattr(draft, field.name) for field in fields(draft)}
    return values | {
        "price": format(draft.price, "f"),
        "accessType": draft.access_type and draft.access_type.value,
    }


def movie_of(document: Document) -> Movie:
    """Read a stored title, whoever wrote it."""
    values: Document = {name: text(document.get(camel(name))) for name in _TEXTS}
    values |= {name: texts(document.get(camel(name))) for name in _LISTS}
    access = document.get("accessType", AccessType.FREE)
    known = access in list(AccessType)
    source = text(document.get("source", "OPHIM"))
    return Movie(
        id=MovieId(str(document["_id"])),
        year=integer(document.get("year")),
        view=integer(document.get("view", 0)),
        price=amount(document.get("price", "0")),
        access_type=AccessType(access) if known else None,
        locked=not known and access is not None,
        tmdb_rating=_rating(document, "tmdb"),
        imdb_rating=_rating(document, "imdb"),
        category=_named_list(document.get("category")),
        country=_named_list(document.get("country")),
        episodes=_servers(document.get("episodes")),
        sub_docquyen=_flag(document.get("subDocquyen")),
        chieu_rap=_flag(document.get("chieuRap")),
        source=source if source in SOURCES else None,
        created_at=moment(document.get("createdAt")),
        updated_at=moment(document.get("updatedAt")),
        **values,
    )


def named(document: Document) -> NamedRef:
    """Read a genre or country; its id is text, and named `_id` in its own collection."""
    return NamedRef(
        text(document.get("_id", document.get("id"))),
        text(document.get("name")),
        text(document.get("slug")),
    )


def text(value: object) -> str | None:
    """Read text; numbers and object ids have an obvious spelling, other things have none."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | ObjectId):
        return None
    return str(value)


def texts(value: object) -> tuple[str, ...] | None:
    """Read a list of texts."""
    if not isinstance(value, list):
        return None
    return tuple(item for item in map(text, value) if item is not None)


def integer(value: object) -> int | None:
    """Read a whole number of at most 64 bits, from a double or from digits too."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = int(value)
    except (ValueError, OverflowError):
        return None
    return found if is_int64(found) else None


def amount(value: object) -> Decimal | None:
    """Read an amount from text, Decimal128 or number, keeping its scale."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal128):
        return None
    try:
        found = Decimal(str(value))
    except ArithmeticError:
        return None
    return found if found.is_finite() else None


def moment(value: object) -> datetime | None:
    """Read a BSON date, aware, in UTC."""
    if not isinstance(value, datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


def _rating(document: Document, by: str) -> float | None:
    """Read our own rating, else what the import tool stored."""
    imported = document.get(by)
    other = imported.get("voteAverage") if isinstance(imported, dict) else None
    own = document.get(f"{by}Rating")
    found = amount(other if own is None else own)
    return None if found is None else float(found)


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _named_list(value: object) -> tuple[NamedRef, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(named(item) for item in value if isinstance(item, dict))


def _servers(value: object) -> tuple[EpisodeServer, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(
        EpisodeServer(
            server_name=text(server.get("serverName")),
            is_ai=_flag(server.get("isAi")),
            server_data=_episodes(server.get("serverData")),
        )
        for server in value
        if isinstance(server, dict)
    )


def _episodes(value: object) -> tuple[Episode, ...] | None:
    if not isinstance(value, list):
        return None
    names = [field.name for field in fields(Episode)]
    return tuple(
        Episode(**{name: text(part.get(camel(name))) for name in names})
        for part in value
        if isinstance(part, dict)
    )
