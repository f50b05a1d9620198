"""HTTP in, one use case, HTTP out."""

from flask import Blueprint, Response, request

from cloud import web
from cloud.errors import DeniedError, InvalidError
from cloud.security import Principal
from movie import schema, service
from movie.deps import Deps
from movie.domain import Filters, Movie, Page, Window
from movie.service import EDITORS

bp = Blueprint("movies", __name__, url_prefix="/api")

_INT32 = 2**31 - 1
_SIZE = 24
_LARGEST = 50
_TRENDING = 10
_INDEXES = ("server", "episode")
# A query is cut, not refused, so that a pasted paragraph still finds something.
_LONGEST_ASKED = 8192
# How long answers that do not depend on the caller may be kept (wire contract, section 6).
_LISTS = {"Cache-Control": "max-age=60"}
_ITEMS = {"Cache-Control": "max-age=300"}
_META = {"Cache-Control": "max-age=86400"}


@bp.get("/movies")
def list_movies() -> Response:
    """Answer a page, narrowed by every filter that is given."""
    filters = Filters(
        type=_filter("type"),
        genre=_filter("genre"),
        country=_filter("country"),
        year=_year(),
    )
    return _listed(filters, web.query_text("q", maximum=_LONGEST_ASKED))


@bp.get("/movies/search")
def search_movies() -> Response:
    """Answer what matches every word of `q`, the best match first."""
    if "q" not in request.args:
        raise InvalidError("Validation failed", {"q": "is required"})
    return _listed(Filters(), web.query_text("q", maximum=_LONGEST_ASKED))


@bp.get("/movies/type/<kind>")
def movies_by_type(kind: str) -> Response:
    """Answer a page of one type."""
    return _listed(Filters(type=kind))


@bp.get("/movies/genre/<slug>")
def movies_by_genre(slug: str) -> Response:
    """Answer a page of one genre."""
    return _listed(Filters(genre=slug))


@bp.get("/movies/country/<slug>")
def movies_by_country(slug: str) -> Response:
    """Answer a page of one country."""
    return _listed(Filters(country=slug))


@bp.get("/movies/year/<int:year>")
def movies_by_year(year: int) -> Response:
    """Answer a page of one year."""
    return _listed(Filters(year=year))


@bp.get("/movies/latest")
def latest_movies() -> Response:
    """Answer a page in the order of arrival, newest first."""
    return _paged(web.current(Deps).catalogue.latest(_window()))


@bp.get("/movies/free")
def free_movies() -> Response:
    """Answer free titles as a plain list, newest first."""
    found = web.current(Deps).catalogue.free(_window(_LARGEST))
    return web.ok(schema.dump_items(found), headers=_LISTS)


@bp.get("/movies/trending")
def trending_movies() -> Response:
    """Answer the ten titles viewed most."""
    found = web.current(Deps).catalogue.trending(_TRENDING)
    return web.ok(schema.dump_items(found), headers=_LISTS)


@bp.get("/genres")
def list_genres() -> Response:
    """Answer all genres by name."""
    return web.ok(schema.dump_refs(web.current(Deps).catalogue.genres()), headers=_META)


@bp.get("/countries")
def list_countries() -> Response:
    """Answer all countries by name."""
    return web.ok(schema.dump_refs(web.current(Deps).catalogue.countries()), headers=_META)


@bp.get("/years")
def list_years() -> Response:
    """Answer the years that have titles, the latest first."""
    return web.ok(web.current(Deps).catalogue.years(), headers=_META)


@bp.post("/movies")
def create_movie() -> Response:
    """Answer 201 with the stored title."""
    _ensure_editor(*EDITORS)
    deps = web.current(Deps)
    draft = schema.MovieRequest.parse(web.json_body()).draft()
    movie = service.create(draft, catalogue=deps.catalogue, changes=deps.changes, now=deps.now())
    return web.created(schema.dump_document(movie), "Movie created successfully")


@bp.put("/movies/<movie_id>")
def update_movie(movie_id: str) -> Response:
    """Answer the title with all its editable fields replaced."""
    _ensure_editor(*EDITORS)
    deps = web.current(Deps)
    draft = schema.MovieRequest.parse(web.json_body()).draft()
    movie = service.update(
        movie_id, draft, catalogue=deps.catalogue, changes=deps.changes, now=deps.now()
    )
    return web.ok(schema.dump_document(movie), "Movie updated successfully")


@bp.delete("/movies/<movie_id>")
def delete_movie(movie_id: str) -> Response:
    """Answer 200 without data."""
    _ensure_editor("ADMIN")
    deps = web.current(Deps)
    service.delete(movie_id, catalogue=deps.catalogue, changes=deps.changes, now=deps.now())
    return web.ok(message="Movie deleted successfully")


@bp.get("/movies/<movie_id>")
def get_movie_by_id(movie_id: str) -> Response:
    """Answer a title; a paid one without its addresses to those who are not entitled."""
    return _detail(_by_id(movie_id))


@bp.get("/movies/slug/<slug>")
def get_movie_by_slug(slug: str) -> Response:
    """Answer a title; a paid one without its addresses to those who are not entitled."""
    return _detail(_by_slug(slug))


@bp.get("/movies/<movie_id>/play")
def play_by_id(movie_id: str) -> Response:
    """Answer what a player needs, or 401, 403, 503 for a paid title."""
    return _play(_by_id(movie_id))


@bp.get("/movies/slug/<slug>/play")
def play_by_slug(slug: str) -> Response:
    """Answer what a player needs, or 401, 403, 503 for a paid title."""
    return _play(_by_slug(slug))


@bp.get("/movies/<movie_id>/episodes")
def episodes_by_id(movie_id: str) -> Response:
    """Answer all servers and episodes, or 401, 403, 503 for a paid title."""
    return _episodes(_by_id(movie_id))


@bp.get("/movies/slug/<slug>/episodes")
def episodes_by_slug(slug: str) -> Response:
    """Answer all servers and episodes, or 401, 403, 503 for a paid title."""
    return _episodes(_by_slug(slug))


@bp.post("/movies/<movie_id>/view")
def view_by_id(movie_id: str) -> Response:
    """Count a view."""
    return _view(_by_id(movie_id))


@bp.post("/movies/slug/<slug>/view")
def view_by_slug(slug: str) -> Response:
    """Count a view."""
    return _view(_by_slug(slug))


def _by_id(movie_id: str) -> Movie:
    return service.get_by_id(movie_id, catalogue=web.current(Deps).catalogue)


def _by_slug(slug: str) -> Movie:
    return service.get_by_slug(slug, catalogue=web.current(Deps).catalogue)


def _detail(movie: Movie) -> Response:
    shown = service.shown(movie, web.caller(), paywall=web.current(Deps).paywall)
    # What a paid title shows depends on who asks: nobody else may get it from a cache.
    return web.ok(schema.dump_movie(shown), headers=_ITEMS if movie.is_open else None)


def _play(movie: Movie) -> Response:
    server, episode = (web.query_int(name, 0, -_INT32 - 1, _INT32) for name in _INDEXES)
    paywall = web.current(Deps).paywall
    return web.ok(
        schema.dump_stream(service.play(movie, _viewer(movie), server, episode, paywall=paywall))
    )


def _episodes(movie: Movie) -> Response:
    found = service.episodes(movie, _viewer(movie), paywall=web.current(Deps).paywall)
    return web.ok(schema.dump_episodes(found))


def _view(movie: Movie) -> Response:
    deps, viewer = web.current(Deps), web.caller()
    who = f"user {viewer.user_id}" if viewer else f"address {web.client_ip()}"
    service.view(movie, who, catalogue=deps.catalogue, views=deps.views, now=deps.now())
    return web.ok()


def _viewer(movie: Movie) -> Principal | None:
    """Return the caller; only for a paid title is a token that is no good an error."""
    return web.caller(strict=not movie.is_open)


def _ensure_editor(*roles: str) -> None:
    """Raise unless the caller has one of the roles, or writes are open on this machine."""
    if web.current(Deps).settings.open_writes:
        return
    if not web.principal().has_role(*roles):
        raise DeniedError("Role is missing")


def _listed(filters: Filters, query: str | None = None) -> Response:
    catalogue = web.current(Deps).catalogue
    return _paged(service.listed(query, filters, _window(), catalogue=catalogue))


def _paged(page: Page) -> Response:
    return web.ok(schema.dump_page(page), headers=_LISTS)


def _window(size: int = _SIZE) -> Window:
    return Window(
        web.query_int("page", 1, 1, _INT32, clamp=True),
        web.query_int("size", size, 1, _LARGEST, clamp=True),
    )


def _filter(name: str) -> str | None:
    return (web.query_text(name) or "").strip() or None


def _year() -> int | None:
    return web.query_int("year", 0) if _filter("year") else None
