"""The catalogue on the real document store."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from bson import ObjectId
from bson.decimal128 import Decimal128
from pymongo.database import Database

from movie import store
from movie.domain import AccessType, Filters, MovieDraft, MovieId, SlugTakenError, Window, words
from tests.movie.conftest import NOW, Document

FIRST = Window(1, 50)
ONE, OTHER = MovieId("a" * 24), MovieId("b" * 24)


def draft(**changes: Any) -> MovieDraft:
    """A draft with a name, a slug and nothing else."""
    empty: dict[str, Any] = dict.fromkeys(MovieDraft.__slots__)
    return MovieDraft(
        **empty | {"name": "Night Ferry", "slug": "night-ferry", "price": Decimal(0)} | changes
    )


def names(page: Any) -> list[str | None]:
    return [movie.name for movie in page.items]


def test_a_title_is_stored_as_spring_data_stores_it(catalogue, db):
    made = catalogue.create(
        draft(price=Decimal("19.90"), access_type=AccessType.RENTAL, year=2020), now=NOW
    )
    stored = db["movies"].find_one({"_id": ObjectId(made.id)})
    assert stored == {
        "_id": ObjectId(made.id),
        "_class": "com.nozie.movieservice.common.model.Movie",
        "name": "Night Ferry",
        "slug": "night-ferry",
        "price": "19.90",
        "accessType": "RENTAL",
        "year": 2020,
        "view": 0,
        "source": "MANUAL",
        "searchTerms": ["night", "ferry"],
        "createdAt": NOW,
        "updatedAt": NOW,
    }
    assert catalogue.find(made.id) == made


def test_an_update_writes_the_drafts_fields_and_keeps_all_others(catalogue, db):
    """A rewrite would lose what the import tool knows (MV-05)."""
    made = catalogue.create(draft(quality="HD", access_type=AccessType.PREMIUM), now=NOW)
    foreign = {"tmdb": {"voteAverage": 7.5}, "isCopyright": False, "actor": ["An"]}
    alternatives = {"alternativeNames": ["Ferry by Night"]}
    db["movies"].update_one({"_id": ObjectId(made.id)}, {"$set": foreign | alternatives})

    later = NOW + timedelta(hours=1)
    catalogue.update(made.id, draft(name="Day Ferry", slug="day-ferry"), now=later)

    stored = db["movies"].find_one({"_id": ObjectId(made.id)})
    assert foreign.items() <= stored.items()
    assert "quality" not in stored
    assert stored["accessType"] == "PREMIUM"
    assert stored["searchTerms"] == ["day", "ferry", "by", "night"]
    assert (stored["createdAt"], stored["updatedAt"]) == (NOW, later)


def test_a_document_without_a_slug_can_be_updated(catalogue, db):
    db["movies"].insert_many([{"name": "Nameless"}, {"name": "Nameless too"}])
    found = db["movies"].find_one({"name": "Nameless"})
    assert catalogue.update(str(found["_id"]), draft(), now=NOW).slug == "night-ferry"


@pytest.mark.parametrize("unknown", ["7", "f" * 24, "g" * 24, "\uff46" * 24, ""])
def test_no_movie_has_this_id(catalogue, unknown):
    assert catalogue.find(unknown) is None
    assert catalogue.update(unknown, draft(), now=NOW) is None
    assert not catalogue.delete(unknown)


def test_a_slug_is_taken_once(catalogue):
    catalogue.create(draft(), now=NOW)
    other = catalogue.create(draft(slug="other"), now=NOW)
    with pytest.raises(SlugTakenError):
        catalogue.create(draft(), now=NOW)
    with pytest.raises(SlugTakenError):
        catalogue.update(other.id, draft(), now=NOW)


def test_of_two_creations_at_once_one_stays(catalogue, db):
    def create(_number: int) -> bool:
        try:
            catalogue.create(draft(), now=NOW)
        except SlugTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(create, range(8))).count(True) == 1
    assert db["movies"].count_documents({"slug": "night-ferry"}) == 1


def test_no_view_of_many_at_once_is_lost(catalogue):
    made = catalogue.create(draft(), now=NOW)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: catalogue.count_view(made.id), range(40)))
    assert catalogue.find(made.id).view == 40


def test_a_viewer_counts_once_in_the_window(db):
    views = store.MongoViews(db, timedelta(minutes=10))
    times = [timedelta(0), timedelta(minutes=9), timedelta(minutes=10), timedelta(minutes=11)]
    seen = [views.is_first(ONE, "user 1", now=NOW + after) for after in times]
    assert seen == [True, False, True, False]
    assert views.is_first(ONE, "user 2", now=NOW)
    assert views.is_first(OTHER, "user 1", now=NOW)


def test_of_one_viewer_many_times_at_once_one_counts(db):
    views = store.MongoViews(db, timedelta(minutes=10))
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda _: views.is_first(ONE, "user 1", now=NOW), range(16)))
    assert seen.count(True) == 1


def test_old_duplicates_do_not_keep_the_service_from_starting(db, catalogue):
    """Somebody's collection may hold a slug twice; the newest answers until it is cleaned up."""
    db["movies"].drop_index("slug")
    db["movies"].insert_one({"name": "Old", "slug": "twice"})
    db["movies"].insert_one({"name": "New", "slug": "twice"})
    store.prepare(db, view_window=timedelta(minutes=10))
    assert catalogue.find_by_slug("twice").name == "New"
    with pytest.raises(SlugTakenError):
        catalogue.create(draft(slug="twice"), now=NOW)


def test_documents_of_other_writers_are_found_and_ordered(db, catalogue):
    """The import tool writes neither searchTerms nor updatedAt (MV-04)."""
    db["movies"].insert_many(
        [
            {"name": "Cũ", "createdAt": NOW - timedelta(days=9)},
            {"name": "Đã Sửa", "createdAt": NOW, "modifiedAt": NOW - timedelta(days=3)},
            {"name": "Mới", "createdAt": NOW - timedelta(days=1), "modifiedAt": "yesterday"},
        ]
    )
    assert names(catalogue.page(Filters(), FIRST)) == ["Mới", "Đã Sửa", "Cũ"]
    assert names(catalogue.page(Filters(words=words("da sua")), FIRST)) == ["Đã Sửa"]


def test_adoption_leaves_a_change_of_the_same_moment_alone(db, catalogue):
    db["movies"].insert_one({"name": "Once"})
    catalogue.adopt()
    before = db["movies"].find_one({"name": "Once"})
    assert catalogue.adopt() == 0
    assert db["movies"].find_one({"name": "Once"}) == before


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        pytest.param({"price": "19.90"}, Decimal("19.90"), id="text keeps its scale"),
        pytest.param({"price": Decimal128("1.50")}, Decimal("1.50"), id="Decimal128"),
        pytest.param({"price": 3}, Decimal(3), id="number"),
        pytest.param({}, Decimal(0), id="absent reads as the default"),
        pytest.param({"price": None}, None, id="null reads as null"),
        pytest.param({"price": "free"}, None, id="no number at all"),
        pytest.param({"price": "NaN"}, None, id="not finite"),
    ],
)
def test_price_as_it_may_be_stored(db, catalogue, stored, expected):
    db["movies"].insert_one({"slug": "x", **stored})
    price = catalogue.find_by_slug("x").price
    assert (price, str(price)) == (expected, str(expected))


@pytest.mark.parametrize(
    ("stored", "access", "is_open"),
    [
        pytest.param({}, AccessType.FREE, True, id="absent is free"),
        pytest.param({"accessType": None}, None, True, id="null is no condition"),
        pytest.param({"accessType": "RENTAL"}, AccessType.RENTAL, False, id="rental"),
        pytest.param({"accessType": "GOLD"}, None, False, id="unknown is given to nobody"),
        pytest.param({"accessType": ["FREE"]}, None, False, id="garbage is given to nobody"),
    ],
)
def test_access_type_as_it_may_be_stored(db, catalogue, stored, access, is_open):
    db["movies"].insert_one({"slug": "x", **stored})
    movie = catalogue.find_by_slug("x")
    assert (movie.access_type, movie.is_open) == (access, is_open)


def test_a_document_full_of_surprises_is_read(db, catalogue):
    """Nothing stored may make a read fail: it would take the whole list with it."""
    odd: Document = {
        "slug": "odd",
        "name": 1984,
        "year": "2011",
        "view": 12.0,
        "actor": ["An", 7, None, {"x": 1}],
        "category": [{"id": ObjectId("a" * 24), "name": "Drama"}, "drama"],
        "country": "Vietnam",
        "episodes": [{"serverName": "A", "serverData": [{"name": 1}, None]}, {"serverData": 5}, 3],
        "tmdb": {"voteAverage": 7.5},
        "imdb": {"voteAverage": "high"},
        "createdAt": "today",
        "source": "ELSEWHERE",
        "quality": ["HD"],
    }
    db["movies"].insert_one(odd)
    movie = catalogue.find_by_slug("odd")
    assert (movie.name, movie.year, movie.view, movie.actor) == ("1984", 2011, 12, ("An", "7"))
    assert [(ref.id, ref.slug) for ref in movie.category] == [("a" * 24, None)]
    assert [server.server_data and len(server.server_data) for server in movie.episodes] == [
        1,
        None,
    ]
    assert (movie.tmdb_rating, movie.imdb_rating) == (7.5, None)
    assert (movie.country, movie.created_at, movie.source, movie.quality) == (None,) * 4
    assert names(catalogue.page(Filters(), FIRST)) == ["1984"]


@pytest.fixture
def found_by(db, catalogue) -> Callable[[str], list[str | None]]:
    db["movies"].insert_many(
        [
            {"name": "Night Train", "view": 5},
            {"name": "Nightfall", "view": 900, "originName": "Đêm Xuống"},
            {"name": "The Long Night", "view": 40},
            {"name": "Harbour", "alternativeNames": ["Night at the Quay"]},
        ]
    )
    return lambda query: names(catalogue.page(Filters(words=words(query)), FIRST))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(
            "night",
            ["The Long Night", "Night Train", "Harbour", "Nightfall"],
            id="whole words before beginnings, then by views",
        ),
        pytest.param("NIGHT tra", ["Night Train"], id="every word must begin one"),
        pytest.param("đêm", ["Nightfall"], id="the original title counts"),
        pytest.param("DEM xuong", ["Nightfall"], id="case and diacritics do not"),
        pytest.param("ight", [], id="the middle of a word is no beginning"),
        pytest.param(
            "night.*",
            ["The Long Night", "Night Train", "Harbour", "Nightfall"],
            id="nothing is an expression",
        ),
        pytest.param("?!", [], id="no word finds nothing"),
    ],
)
def test_search(found_by, query, expected):
    assert found_by(query) == expected


def test_pages_neither_repeat_nor_lose_a_title(db, catalogue, seed):
    store.load_seed(db, seed)
    db["movies"].update_many({}, {"$set": {"updatedAt": NOW}})
    for filters in (Filters(), Filters(words=("the",)), Filters(type="single", genre="drama")):
        seen = [
            movie.id
            for number in range(1, 40)
            for movie in catalogue.page(filters, Window(number, 7)).items
        ]
        total = catalogue.page(filters, FIRST).total
        assert len(seen) == len(set(seen)) == total > 7


def test_filters_are_combined(db, catalogue, seed):
    store.load_seed(db, seed)
    page = catalogue.page(
        Filters(type="single", genre="drama", country="vietnam", year=2019), FIRST
    )
    assert names(page) == ["The Lamplighter of Hội An"]


def test_a_year_that_is_none_hides_no_other(db, catalogue):
    """Importers of others write what their language calls a number."""
    odd = [2024, 2023.0, float("nan"), float("inf"), float("-inf"), 1e300, "2022", None]
    db["movies"].insert_many({"slug": str(number), "year": y} for number, y in enumerate(odd))
    assert catalogue.years() == (2024, 2023)
    assert {movie.year for movie in catalogue.latest(FIRST).items} == {2024, 2023, 2022, None}


def test_the_seed_is_a_catalogue_worth_browsing(db, catalogue, seed):
    assert store.load_seed(db, seed) == db["movies"].count_documents({}) >= 240
    assert {
        access.value: db["movies"].count_documents({"accessType": access.value}) > 40
        for access in AccessType
    } == {"FREE": True, "PREMIUM": True, "RENTAL": True}
    assert len(catalogue.genres()) >= 15
    assert len(catalogue.countries()) >= 15
    assert catalogue.years() == tuple(range(2024, 2010, -1))
    for ref in (*catalogue.genres(), *catalogue.countries()):
        wanted = Filters(genre=ref.slug) if ref in catalogue.genres() else Filters(country=ref.slug)
        assert catalogue.page(wanted, FIRST).total > 0, ref
    views = [movie.view for movie in catalogue.trending(10)]
    assert views == sorted(views, reverse=True)
    assert len(set(views)) == 10


def test_every_seeded_title_can_be_played_and_priced(db, catalogue, seed):
    store.load_seed(db, seed)
    for document in db["movies"].find({}, ["slug"]):
        movie = catalogue.find_by_slug(document["slug"])
        assert movie.content
        assert movie.director
        assert (movie.price > 0) == (movie.access_type is AccessType.RENTAL)
        links = [part.link_m3u8 for server in movie.episodes for part in server.server_data]
        assert links
        assert all(link.startswith("https://media.nozie.example/") for link in links)
        assert all(link.endswith(".m3u8") for link in links)


def test_the_seed_comes_once_and_what_is_deleted_stays_deleted(db, catalogue, seed):
    store.load_seed(db, seed)
    gone = catalogue.find_by_slug("monsoon-ledger")
    catalogue.delete(gone.id)
    assert store.load_seed(db, seed) == 0
    assert catalogue.find_by_slug("monsoon-ledger") is None


def test_a_seed_that_broke_off_is_completed(db, seed):
    """A loader that dies half-way leaves no mark; the next one adds what is missing."""
    half = seed | {"movies": seed["movies"][:100]}
    store.load_seed(db, half)
    db["seeds"].delete_many({})
    assert store.load_seed(db, seed) == len(seed["movies"]) - 100


def test_two_instances_load_the_seed_at_once(db, seed):
    with ThreadPoolExecutor(3) as pool:
        added = list(pool.map(lambda _: store.load_seed(db, seed), range(3)))
    assert sum(added) == db["movies"].count_documents({}) == len(seed["movies"])


def test_an_id_is_the_same_in_every_estate(db, catalogue, seed):
    store.load_seed(db, seed)
    movie = catalogue.find_by_slug("monsoon-ledger")
    assert ObjectId(movie.id).generation_time == datetime(2025, 3, 29, 16, 29, tzinfo=UTC)
    assert movie.id == "67e81fcc528f392edc3d8f07"


def test_what_a_writer_never_sees_is_indexed(db: Database[Document]):
    keys = [list(index["key"]) for index in db["movies"].index_information().values()]
    assert [("searchTerms", 1)] in keys
    assert [("updatedAt", -1), ("_id", -1)] in keys
    assert db["movies"].index_information()["slug"]["unique"]
    assert db["views"].index_information()["at_1"]["expireAfterSeconds"] == 600
