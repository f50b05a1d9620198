"""The catalogue over HTTP; every answer is held against movie/openapi.yaml by the client."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from cloud.config import Environment
from cloud.testing import bearer, properties
from movie.app import create_app
from tests.contract.client import checked

pytestmark = pytest.mark.estate

FREE = "the-lamplighter-of-hoi-an"
PREMIUM = "monsoon-ledger"
RENTAL = "red-dust-highway"
NEW = {"name": "Night Ferry", "slug": "night-ferry"}


def movie_id(client, slug):
    return client.get(f"/api/movies/slug/{slug}").json["data"]["id"]


def play(client, slug, headers=None):
    return client.get(f"/api/movies/slug/{slug}/play", headers=headers)


@pytest.mark.parametrize(
    ("path", "total"),
    [
        pytest.param("/api/movies", 243, id="everything"),
        pytest.param("/api/movies?type=&genre=%20&q=", 243, id="blank filters narrow nothing"),
        pytest.param("/api/movies?type=series&country=vietnam", 8, id="type and country"),
        pytest.param("/api/movies/country/iceland", 6, id="country"),
        pytest.param("/api/movies/genre/nothing", 0, id="an unknown genre"),
        pytest.param("/api/movies/year/1999", 0, id="a year without titles"),
        pytest.param("/api/movies/search?q=%20", 243, id="blank query"),
        pytest.param("/api/movies/search?q=HOI%20an", 1, id="folded words"),
        pytest.param("/api/movies/search?q=.*", 0, id="no word"),
        pytest.param("/api/movies?q=the&genre=crime", 5, id="search within a genre"),
    ],
)
def test_lists(library, path, total):
    assert library.get(path).json["data"]["totalItems"] == total


@pytest.mark.parametrize(
    ("query", "page", "size", "items"),
    [
        pytest.param("", 1, 24, 24, id="defaults"),
        pytest.param("page=0&size=0", 1, 1, 1, id="too small is taken up"),
        pytest.param("page=-5&size=1000", 1, 50, 50, id="too large is taken down"),
        pytest.param("page=11", 11, 24, 3, id="the last page"),
        pytest.param("page=2147483647&size=50", 2147483647, 50, 0, id="far beyond the end"),
        pytest.param("page=99999999999", 2147483647, 24, 0, id="beyond every end"),
    ],
)
def test_paging(library, query, page, size, items):
    library.holds_requests = False
    data = library.get(f"/api/movies?{query}").json["data"]
    assert (data["page"], data["size"], len(data["items"])) == (page, size, items)


@pytest.mark.parametrize(
    "path",
    [
        "/api/movies?page=one",
        "/api/movies?year=soon",
        "/api/movies?size=1.5",
        "/api/movies/latest?page=NaN",
        "/api/movies/year/soon",
        "/api/movies/search",
        "/api/movies?genre=%00",
        f"/api/movies?type={'x' * 300}",
        f"/api/movies/slug/{FREE}/play?server=first",
        f"/api/movies/slug/{FREE}/play?episode=9999999999",
    ],
)
def test_an_ill_typed_value_is_a_400_with_its_reason(client, path):
    answer = client.get(path)
    assert answer.status_code == 400
    assert answer.json["data"]


def test_a_long_query_is_cut_to_its_first_hundred_characters(client):
    answer = client.get("/api/movies/search", query_string={"q": "hội an " + " " * 93 + "nowhere"})
    assert [item["slug"] for item in answer.json["data"]["items"]] == [FREE]


def test_orders(library):
    latest = [item["id"] for item in library.get("/api/movies/latest").json["data"]["items"]]
    assert latest == sorted(latest, reverse=True)
    views = [item["view"] for item in library.get("/api/movies/trending").json["data"]]
    assert len(views) == 10
    assert views == sorted(views, reverse=True)
    free = library.get("/api/movies/free?size=7").json["data"]
    assert [item["accessType"] for item in free] == ["FREE"] * 7
    names = [genre["name"] for genre in library.get("/api/genres").json["data"]]
    assert names == sorted(names)
    assert "Crime" in names
    assert library.get("/api/countries").json["data"][0]["slug"] == "brazil"
    assert library.get("/api/years").json["data"][0] == 2024


def test_a_change_moves_a_title_to_the_front(client):
    key = movie_id(client, FREE)
    client.put(f"/api/movies/{key}", json={**NEW, "slug": FREE}, headers=bearer(1, "ADMIN"))
    assert client.get("/api/movies").json["data"]["items"][0]["id"] == key


@pytest.mark.parametrize(
    "path", ["/api/movies/7", f"/api/movies/{'f' * 24}", "/api/movies/slug/none", "/api/movies/%20"]
)
@pytest.mark.parametrize("tail", ["", "/play", "/episodes"])
def test_an_unknown_title_is_a_404(client, path, tail):
    assert client.get(path + tail).status_code == 404


def test_payment_service_reads_a_paid_title_without_any_token(client):
    """A JVM payment-service calls so, and reads id and price."""
    answer = client.get(f"/api/movies/{movie_id(client, RENTAL)}")
    assert b'"price":3.99' in answer.data
    data = answer.json["data"]
    links = [part["linkM3u8"] for server in data["episodes"] for part in server["serverData"]]
    assert links == [None]
    assert answer.headers["Cache-Control"] == "no-store"


def test_a_free_title_plays_for_everybody(client):
    data = play(client, FREE).json["data"]
    assert data["m3u8Url"] == f"https://media.nozie.example/hls/{FREE}/e01/index.m3u8"
    assert data["customHls"] is False
    # A token that has run out is no reason to keep a free title from anybody.
    assert play(client, FREE, {"Authorization": "Bearer old"}).status_code == 200


def test_episodes_are_counted_from_zero_and_out_of_range_is_the_first(client):
    path = "/api/movies/slug/the-salt-court/play"
    admin = bearer(1, "ADMIN")
    names = [
        client.get(f"{path}?episode={number}", headers=admin).json["data"]["episodeName"]
        for number in (0, 5, 24, -1)
    ]
    assert names == ["Episode 1", "Episode 6", "Episode 1", "Episode 1"]
    servers = client.get("/api/movies/slug/the-salt-court/episodes", headers=admin).json["data"]
    assert len(servers["servers"][0]["episodes"]) == 24


def test_a_custom_address_goes_before_episodes(client, db):
    change = {"$set": {"customHlsUrl": "https://media.nozie.example/x.m3u8"}}
    db["movies"].update_one({"slug": FREE}, change)
    data = play(client, FREE).json["data"]
    assert (data["serverName"], data["episodeSlug"], data["customHls"]) == ("Custom", "full", True)
    assert data["m3u8Url"] == "https://media.nozie.example/x.m3u8"


def test_a_title_without_episodes_plays_nothing(client, db):
    db["movies"].update_one({"slug": FREE}, {"$unset": {"episodes": ""}})
    data = play(client, FREE).json["data"]
    assert {data[key] for key in ("serverName", "episodeName", "m3u8Url", "embedUrl")} == {None}
    assert client.get(f"/api/movies/slug/{FREE}/episodes").json["data"]["servers"] == []


@pytest.mark.parametrize(
    ("slug", "headers", "status"),
    [
        pytest.param(PREMIUM, None, 401, id="premium, nobody"),
        pytest.param(PREMIUM, {"Authorization": "Bearer x"}, 401, id="premium, a bad token"),
        pytest.param(PREMIUM, bearer(7), 403, id="premium, a user"),
        pytest.param(PREMIUM, bearer(7, "USER", "VIP"), 200, id="premium, a VIP"),
        pytest.param(PREMIUM, bearer(7, "PREMIUM"), 200, id="premium, a PREMIUM"),
        pytest.param(PREMIUM, bearer(7, "MODERATOR"), 200, id="premium, a moderator"),
        pytest.param(RENTAL, None, 401, id="rental, nobody"),
        pytest.param(RENTAL, bearer(7, "VIP"), 403, id="rental, a VIP who has not paid"),
        pytest.param(RENTAL, bearer(1, "ADMIN"), 200, id="rental, an admin"),
    ],
)
@pytest.mark.parametrize("tail", ["play", "episodes"])
def test_the_paywall(client, slug, headers, status, tail):
    assert client.get(f"/api/movies/slug/{slug}/{tail}", headers=headers).status_code == status


def test_a_rented_title_plays_for_the_one_who_paid(client, neighbours):
    neighbours.bought.add((70, movie_id(client, RENTAL)))
    answer = play(client, RENTAL, bearer(7))
    assert answer.json["data"]["m3u8Url"]
    assert answer.headers["Cache-Control"] == "no-store"
    detail = client.get(f"/api/movies/slug/{RENTAL}", headers=bearer(7)).json["data"]
    assert detail["episodes"][0]["serverData"][0]["linkM3u8"]
    assert play(client, RENTAL, bearer(8)).status_code == 403


def test_neighbours_are_asked_with_the_viewers_own_token(client, neighbours):
    headers = bearer(7)
    play(client, RENTAL, headers)
    assert neighbours.tokens == [headers["Authorization"]] * 2


def test_a_membership_opens_premium_titles(client, neighbours):
    neighbours.records[0]["isSubscribed"] = True
    assert play(client, PREMIUM, bearer(7)).status_code == 200
    assert play(client, PREMIUM, bearer(8)).status_code == 403


@pytest.mark.parametrize(
    ("record", "status"),
    [
        pytest.param({"id": 70, "email": "ann@example.org"}, 200, id="by e-mail"),
        pytest.param({"id": 70, "email": "ann@example.org", "userId": 8}, 403, id="linked away"),
        pytest.param({"id": 70, "email": None}, 403, id="nobody's"),
        pytest.param({"id": "70", "email": "ann@example.org"}, 403, id="no usable id"),
    ],
)
def test_a_jvm_neighbour_answers_everybodys_records(client, neighbours, record, status):
    """It ignores the token, so the viewer's own record is picked here."""
    neighbours.bought.add((70, movie_id(client, RENTAL)))
    neighbours.records[:] = [{"id": 1, "email": "x@example.com"}, record]
    assert play(client, RENTAL, bearer(7)).status_code == status


@pytest.mark.parametrize("status", [500, 503, 429, 302])
def test_a_neighbour_that_cannot_tell_is_a_503_for_that_title_only(client, neighbours, status):
    neighbours.status = status
    assert play(client, RENTAL, bearer(7)).status_code == 503
    assert play(client, FREE, bearer(7)).status_code == 200


@pytest.mark.parametrize("patience", ["500ms"])
def test_a_hanging_neighbour_is_a_503_as_well(client, neighbours):
    neighbours.answering.clear()
    assert play(client, RENTAL, bearer(7)).status_code == 503
    assert client.get(f"/api/movies/slug/{RENTAL}", headers=bearer(7)).status_code == 200


def test_a_dead_payment_service_gives_nothing_away(client, neighbours):
    neighbours.close()
    assert play(client, RENTAL, bearer(7)).status_code == 503
    assert play(client, RENTAL).status_code == 401
    # The detail is still of use, without its addresses.
    detail = client.get(f"/api/movies/slug/{RENTAL}", headers=bearer(7))
    assert detail.json["data"]["episodes"][0]["serverData"][0]["linkM3u8"] is None


def test_a_view_counts_once_per_viewer(client):
    before = client.get(f"/api/movies/slug/{FREE}").json["data"]["view"]
    path = f"/api/movies/slug/{FREE}/view"
    viewers = [bearer(7), bearer(7), bearer(8), {}, {"X-Forwarded-For": "203.0.113.9"}, {}]
    assert [client.post(path, headers=who).status_code for who in viewers] == [200] * 6
    after = client.get(f"/api/movies/slug/{FREE}").json["data"]["view"]
    assert after - before == 4
    assert client.post(f"/api/movies/{'f' * 24}/view").status_code == 404


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("post", {}, 401),
        ("post", bearer(7), 403),
        ("post", bearer(7, "MODERATOR"), 201),
        ("put", {}, 401),
        ("put", bearer(7), 403),
        ("put", bearer(7, "MODERATOR"), 200),
        ("delete", {}, 401),
        ("delete", bearer(7), 403),
        ("delete", bearer(7, "MODERATOR"), 403),
        ("delete", bearer(1, "ADMIN"), 200),
    ],
)
def test_who_may_edit(client, method, headers, status):
    path = "/api/movies" if method == "post" else f"/api/movies/{movie_id(client, FREE)}"
    body = {} if method == "delete" else {"json": NEW}
    assert client.open(path, method=method.upper(), headers=headers, **body).status_code == status


def test_a_forged_header_is_nobodys_word(client):
    forged = {"X-User-Id": "1", "X-User-Roles": "ADMIN", "X-User-Name": "admin"}
    assert client.post("/api/movies", json=NEW, headers=forged).status_code == 401


def test_created_and_deleted(client):
    admin = bearer(1, "ADMIN")
    answer = client.post(
        "/api/movies", json={**NEW, "price": 4.5, "year": 2020, "tmdbRating": 7}, headers=admin
    )
    assert answer.status_code == 201
    made = answer.json["data"]
    assert (made["accessType"], made["view"], made["source"]) == ("RENTAL", 0, "MANUAL")
    assert b'"price":4.5,' in answer.data
    assert client.get("/api/movies/search?q=ferry%20night").json["data"]["totalItems"] == 1
    assert client.delete(f"/api/movies/{made['id']}", headers=admin).json["data"] is None
    assert client.get(f"/api/movies/{made['id']}").status_code == 404
    assert client.delete(f"/api/movies/{made['id']}", headers=admin).status_code == 404


@pytest.mark.parametrize(
    ("change", "access"),
    [
        ({}, "FREE"),
        ({"price": 0}, "FREE"),
        ({"price": None}, "FREE"),
        ({"price": 2.99}, "RENTAL"),
        ({"price": 2.99, "accessType": "PREMIUM"}, "PREMIUM"),
        ({"price": 2.99, "accessType": None}, "RENTAL"),
    ],
)
def test_a_price_asks_for_payment_unless_told_otherwise(client, change, access):
    answer = client.post("/api/movies", json={**NEW, **change}, headers=bearer(1, "ADMIN"))
    assert answer.json["data"]["accessType"] == access


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"name": " "}, "name", id="blank name"),
        pytest.param({"name": None}, "name", id="no name"),
        pytest.param({"name": ["x"]}, "name", id="a list for a name"),
        pytest.param({"slug": ""}, "slug", id="empty slug"),
        pytest.param({"slug": "a\0b"}, "slug", id="NUL"),
        pytest.param({"slug": "x" * 256}, "slug", id="overlong slug"),
        pytest.param({"year": 1899}, "year", id="too early"),
        pytest.param({"year": "soon"}, "year", id="no number"),
        pytest.param({"year": 2020.5}, "year", id="no whole number"),
        pytest.param({"price": -1}, "price", id="negative"),
        pytest.param({"price": 1.999}, "price", id="a part of a cent"),
        pytest.param({"price": 10**30}, "price", id="more than anybody has"),
        pytest.param({"price": True}, "price", id="a flag for a price"),
        pytest.param({"accessType": "GOLD"}, "accessType", id="no such access"),
        pytest.param({"posterUrl": "javascript:alert(1)"}, "posterUrl", id="a script"),
        pytest.param({"thumbUrl": "ftp://x/y"}, "thumbUrl", id="another scheme"),
        pytest.param({"trailerUrl": "https://"}, "trailerUrl", id="no host"),
        pytest.param({"trailerUrl": "https://[x"}, "trailerUrl", id="no address at all"),
        pytest.param({"trailerUrl": "https://x/" + "y" * 2048}, "trailerUrl", id="too long"),
        pytest.param({"content": "x" * 20001}, "content", id="overlong content"),
        pytest.param({"imdbRating": "good"}, "imdbRating", id="no rating"),
    ],
)
def test_a_draft_that_cannot_be_kept(client, change, field):
    answer = client.post("/api/movies", json={**NEW, **change}, headers=bearer(1, "ADMIN"))
    assert answer.status_code == 400
    assert list(answer.json["data"]) == [field]


def test_reading_is_as_lenient_as_jackson(client):
    client.holds_requests = False
    body = {"name": 1984, "slug": "1984", "year": "1984", "price": "4.99", "status": True, "x": {}}
    answer = client.post("/api/movies", json=body, headers=bearer(1, "ADMIN"))
    made = answer.json["data"]
    assert (made["name"], made["year"], made["price"], made["status"]) == (
        "1984",
        1984,
        4.99,
        "true",
    )


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        ("Love & war < peace", "Love &amp; war &lt; peace"),
        ("Tom & Jerry", "Tom & Jerry"),
        ("<p onclick='x()'>Hi<script>alert(1)</script></p>", "<p>Hi</p>"),
        ('<a href="javascript:x()">a</a><img src=x onerror=y()>', '<a>a</a><img src="x">'),
        ("", ""),
        (None, None),
    ],
)
def test_markup_loses_what_would_run(client, content, stored):
    answer = client.post(
        "/api/movies", json={**NEW, "content": content}, headers=bearer(1, "ADMIN")
    )
    assert answer.json["data"]["content"] == stored


def test_a_taken_slug_is_a_400(client):
    admin = bearer(1, "ADMIN")
    other = client.post("/api/movies", json=NEW, headers=admin).json["data"]["id"]
    assert client.post("/api/movies", json=NEW, headers=admin).status_code == 400
    taken = {"name": "Other", "slug": FREE}
    assert client.put(f"/api/movies/{other}", json=taken, headers=admin).status_code == 400
    assert client.put(f"/api/movies/{other}", json=NEW, headers=admin).status_code == 200


def test_an_update_empties_what_it_does_not_name_and_keeps_the_access_type(client):
    key = movie_id(client, RENTAL)
    body = {"name": "Red Dust", "slug": RENTAL}
    data = client.put(f"/api/movies/{key}", json=body, headers=bearer(1, "ADMIN")).json["data"]
    assert (data["name"], data["content"], data["price"]) == ("Red Dust", None, 0)
    assert data["accessType"] == "RENTAL"
    assert data["episodes"]
    assert data["actor"]


def test_open_links_restore_what_the_unmodified_app_expects(client, settings):
    app = create_app(
        Environment(properties("movie-service", settings | {"nozie.movie.open-links": "true"}))
    )
    open_client = checked(app, "movie")
    assert play(open_client, RENTAL).json["data"]["m3u8Url"]


def test_open_writes_let_anybody_edit(client, settings):
    app = create_app(
        Environment(properties("movie-service", settings | {"nozie.movie.open-writes": "true"}))
    )
    open_client = checked(app, "movie")
    assert open_client.post("/api/movies", json=NEW).status_code == 201


def test_editors_at_once_lose_no_view(client):
    """A view counted while a title is edited stays counted: both are changes in place."""
    key, admin = movie_id(client, FREE), bearer(1, "ADMIN")
    before = client.get(f"/api/movies/{key}").json["data"]["view"]

    def turn(number: int) -> None:
        mine = checked(client.application, "movie")
        if number % 2:
            mine.post(f"/api/movies/{key}/view", headers=bearer(100 + number))
        else:
            mine.put(f"/api/movies/{key}", json={**NEW, "slug": FREE}, headers=admin)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(turn, range(20)))
    assert client.get(f"/api/movies/{key}").json["data"]["view"] == before + 10


@pytest.mark.usefixtures("client")
def test_without_its_store_the_service_says_so(settings):
    """The wait is short, the answer honest, and readiness tells the balancer."""
    away = "mongodb://127.0.0.1:1/moviedb"
    gone = {"spring.data.mongodb.uri": away, "nozie.mongodb.connect-timeout": "200ms"}
    app = create_app(Environment(properties("movie-service", settings | gone)))
    client = checked(app, "movie")
    assert client.get("/api/movies").status_code == 503
    assert client.get(f"/api/movies/slug/{FREE}/play").status_code == 503
    assert client.get("/actuator/health/readiness").status_code == 503
    assert client.get("/actuator/health/liveness").status_code == 200
