"""The invented catalogue that a fresh estate shows: genres, countries and titles of `seed.json`."""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from bson import ObjectId
from bson.int64 import Int64
from pymongo import UpdateOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError

from movie.domain import search_terms
from movie.store.documents import CLASS, Document

_MEDIA: Final = "https://media.nozie.example"
_MARK: Final = "catalogue-1"
_DUPLICATE: Final = 11000
_AS_WRITTEN: Final = [
    "name",
    "slug",
    "originName",
    "alternativeNames",
    "content",
    "type",
    "year",
    "director",
    "actor",
    "quality",
    "lang",
    "accessType",
    "price",
    "tmdbRating",
    "imdbRating",
]


def load_seed(database: Database[Document], seed: Mapping[str, Any]) -> int:
    """Load the seed once; return how many titles were added.

    A mark is set when all is in: from then on the catalogue is the editors', and what they delete
    does not come back. Two loaders at once, or one that died half-way, leave each title once.
    """
    marks = database["seeds"]
    if marks.find_one({"_id": _MARK}):
        return 0
    named = {kind: {ref["slug"]: ref for ref in seed[kind]} for kind in ("genres", "countries")}
    for kind, refs in named.items():
        _add(database, kind, ({"_id": r["id"]} | r for r in refs.values()))
    movies = (_movie(raw, named["genres"], named["countries"]) for raw in seed["movies"])
    added = _add(database, "movies", movies)
    marks.update_one({"_id": _MARK}, {"$setOnInsert": {"titles": added}}, upsert=True)
    return added


def _add(database: Database[Document], name: str, documents: Iterable[Document]) -> int:
    """Insert what is missing by slug."""
    changes = [
        UpdateOne({"slug": document["slug"]}, {"$setOnInsert": document}, upsert=True)
        for document in documents
    ]
    try:
        return database[name].bulk_write(changes, ordered=False).upserted_count
    except BulkWriteError as error:
        # Another instance was faster with some of them.
        if any(fault["code"] != _DUPLICATE for fault in error.details["writeErrors"]):
            raise
        return int(error.details["nUpserted"])


def _movie(raw: Document, genres: Mapping[str, Any], countries: Mapping[str, Any]) -> Document:
    """Spell out a title: what follows from its slug, its length and its parts."""
    slug, parts, released = raw["slug"], raw["parts"], raw["released"]
    added = datetime.fromisoformat(raw["added"])
    names = [raw["name"], raw.get("originName"), *raw.get("alternativeNames", ())]
    return {
        "_id": _object_id(slug, added),
        **{name: raw[name] for name in _AS_WRITTEN if name in raw},
        "posterUrl": f"{_MEDIA}/posters/{slug}.jpg",
        "thumbUrl": f"{_MEDIA}/thumbs/{slug}.jpg",
        "trailerUrl": f"{_MEDIA}/trailers/{slug}",
        "time": f"{raw['minutes']} min" + (" per episode" if parts > 1 else ""),
        "status": "completed" if released == parts else "ongoing",
        "episodeCurrent": _current(parts, released),
        "episodeTotal": str(parts),
        "category": [genres[key] for key in raw["category"]],
        "country": [countries[key] for key in raw["country"]],
        "episodes": [_server(slug, raw["quality"], parts, released)],
        "view": Int64(raw["view"]),
        "searchTerms": list(search_terms(names)),
        "source": "MANUAL",
        "subDocquyen": False,
        "chieuRap": False,
        "createdAt": added,
        "updatedAt": added,
        "_class": CLASS,
    }


def _object_id(slug: str, added: datetime) -> ObjectId:
    """Derive the id, so that a title has the same address in every estate."""
    digest = hashlib.sha256(slug.encode()).digest()
    return ObjectId(int(added.timestamp()).to_bytes(4, "big") + digest[:8])


def _current(parts: int, released: int) -> str:
    if parts == 1:
        return "Full"
    return f"Completed ({parts}/{parts})" if released == parts else f"Episode {released}"


def _server(slug: str, quality: str, parts: int, released: int) -> Document:
    return {
        "serverName": f"Nozie {quality}",
        "isAi": False,
        "serverData": [
            {
                "name": "Full" if parts == 1 else f"Episode {number}",
                "slug": "full" if parts == 1 else f"episode-{number}",
                "filename": f"{slug}-e{number:02}",
                "linkEmbed": f"{_MEDIA}/embed/{slug}/{number}",
                "linkM3u8": f"{_MEDIA}/hls/{slug}/e{number:02}/index.m3u8",
            }
            for number in range(1, released + 1)
        ],
    }
