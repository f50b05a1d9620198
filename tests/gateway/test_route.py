"""Routes from Spring Cloud Gateway's YAML: both prefixes, both forms, and bad ones."""

from pathlib import Path

import pytest
import yaml

from cloud.config import Properties
from gateway.exchange import Exchange
from gateway.route import Target, define, load
from gateway.settings import PREFIXES

CONFIG = Path(__file__).parents[2] / "deploy" / "config"


async def never(_exchange):
    raise AssertionError


def table(routes, prefix="spring.cloud.gateway", **more):
    routes = [{"predicates": ["Path=/**"], **route} for route in routes]
    tree = {f"{prefix}.routes": routes, **{f"{prefix}.{k}": v for k, v in more.items()}}
    return load(Properties.of(tree), lambda _route: never)


def first(found, method="GET", path="/", **changes):
    pair = found.find(Exchange(method=method, path=path, raw_path=path, **changes))
    return pair and pair[0].id


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_prefix_that_spring_has_used_is_read(prefix):
    found = table([{"id": "a", "uri": "lb://a", "predicates": ["Path=/a/**"]}], prefix)
    assert first(found, path="/a/1") == "a"


def test_long_and_short_form_mean_the_same():
    routes = [
        {"id": "short", "uri": "http://x", "predicates": ["Cookie=mycookie,v.*"]},
        {"id": "long", "uri": "http://x:81", "predicates": [
            {"name": "Cookie", "args": {"name": "other", "regexp": "v.*"}}]},
        {"id": "generated", "uri": "http://x", "predicates": [
            {"name": "Path", "args": {"_genkey_0": "/g/**", "_genkey_1": "/h"}}]},
    ]  # fmt: skip
    found = table(routes)
    assert first(found, headers=[(b"cookie", b"mycookie=v1")]) == "short"
    assert first(found, headers=[(b"cookie", b"other=v1")]) == "long"
    assert first(found, path="/h") == "generated"
    assert first(found, path="/i") is None


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"uri": "lb://x", "predicates": ["Nope=1"]}, id="unknown predicate"),
        pytest.param({"predicates": ["Path=/**"]}, id="no uri"),
        pytest.param({"uri": "ftp://x", "predicates": ["Path=/**"]}, id="unknown scheme"),
        pytest.param({"uri": "lb://x", "predicates": ["Header=X,("]}, id="bad expression"),
        pytest.param({"uri": "lb://x", "metadata": {"response-timeout": "x"}}, id="bad metadata"),
        pytest.param({"uri": "lb://x", "order": "first"}, id="bad order"),
        pytest.param({"uri": "lb://x", "predicates": [{"args": {"a": "b"}}]}, id="nameless"),
        pytest.param({"uri": "lb://x", "predicates": ["Weight=g,heavy"]}, id="bad weight"),
        pytest.param({"uri": "lb://x", "predicates": []}, id="no predicate"),
    ],
)
def test_one_bad_route_harms_no_other(bad):
    good = {"id": "good", "uri": "lb://good", "predicates": ["Path=/**"]}
    assert first(table([{"id": "bad", **bad}, good])) == "good"


def test_order_decides_then_position():
    routes = [
        {"id": "second", "uri": "lb://x", "order": "2"},
        {"id": "first", "uri": "lb://x", "order": "-1"},
        {"id": "third", "uri": "lb://x", "order": "2"},
    ]
    assert [route.id for route, _ in table(routes).bound] == ["first", "second", "third"]


def test_a_route_can_be_switched_off():
    assert table([{"id": "a", "uri": "lb://a", "enabled": "false"}]).bound == ()


def test_default_filters_take_turns_with_own():
    routes = [{"id": "a", "uri": "lb://a", "filters": ["StripPrefix=1", "PrefixPath=/y"]}]
    found = table(routes, **{"default-filters": ["AddRequestHeader=X-Tag, one"]})
    names = [definition.name for definition in found.bound[0][0].filters]
    assert names == ["AddRequestHeader", "StripPrefix", "PrefixPath"]


def test_exactly_one_route_of_a_weight_group_is_chosen():
    routes = [
        {"id": name, "uri": "lb://x", "predicates": ["Path=/**", f"Weight=group1,{weight}"]}
        for name, weight in (("high", 8), ("low", 2))
    ]
    found = table(routes)
    seen = [first(found, path="/x", draws={"group1": n / 100}) for n in range(100)]
    assert (seen.count("high"), seen.count("low")) == (80, 20)
    assert {first(found, path="/x") for _ in range(200)} == {"high", "low"}


def test_metadata_gives_timeouts():
    routes = [
        {
            "id": "a",
            "uri": "lb://a",
            "metadata": {"response-timeout": "200", "connect-timeout": "50"},
        },
        {"id": "b", "uri": "lb://b", "metadata": {"response-timeout": "-1"}},
    ]
    (one, _), (other, _) = table(routes).bound
    assert (one.response_timeout, one.connect_timeout) == (0.2, 0.05)
    assert other.response_timeout == float("inf")


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("lb://movie-service", Target("lb", "movie-service")),
        ("http://example.org", Target("http", "example.org", 80)),
        ("https://example.org:8443/ignored", Target("https", "example.org", 8443)),
        ("forward:/fallback/movies", Target("forward", "/fallback/movies")),
    ],
)
def test_a_target(uri, target):
    assert Target.parse(uri) == target


def test_shortcut_arguments_are_trimmed_and_the_empty_dropped():
    assert define("AddRequestHeader=X-A,  b ,").args == {"_0": "X-A", "_1": "b"}
    assert define("PreserveHostHeader").args == {}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/movies/7", "movie-service"),
        ("/api/genres", "movie-service"),
        ("/search/x", "movie-service"),
        ("/ratings/movies/1/ratings", "movie-service"),
        ("/api/customers", "customer-service"),
        ("/wishlists/1", "customer-service"),
        ("/api/payments/webhook", "payment-service"),
        ("/create-payment", "payment-service"),
        ("/transaction/1/2", "payment-service"),
        ("/purchases/1", "payment-service"),
        ("/api/notifications/1", "notification-service"),
        ("/notifications/x", "notification-service"),
        ("/api/auth/login", "identity-service"),
        ("/api/admin/users", "identity-service"),
        ("/auth/forgot-password/reset", "identity-service"),
        ("/movie-service/api/movies", None),
        ("/identity-service/api/admin/users", None),
        ("/Api/movies", None),
        ("/", None),
        ("/actuator/env", None),
    ],
)
def test_the_estates_own_routes(path, route):
    tree = yaml.safe_load((CONFIG / "api-gateway.yml").read_text())
    found = load(Properties.of(tree), lambda _route: never)
    assert first(found, path=path) == route


LOCATOR = "spring.cloud.gateway.discovery.locator"


@pytest.mark.parametrize(
    ("options", "path", "found"),
    [
        ({}, "/MOVIE/x", ("ReactiveCompositeDiscoveryClient_MOVIE", "lb://MOVIE", "/MOVIE")),
        ({}, "/movie/x", None),
        (
            {"lower-case-service-id": True, "route-id-prefix": "found_"},
            "/movie/x",
            ("found_MOVIE", "lb://MOVIE", "/movie"),
        ),
        (
            {
                "predicates": [{"name": "Path", "args": {"any": "'/s/'+serviceId+'/**'"}}],
                "url-expression": "'lb:ws://'+serviceId",
            },
            "/s/MOVIE/x",
            ("ReactiveCompositeDiscoveryClient_MOVIE", "lb:ws://MOVIE", "/s/MOVIE"),
        ),
        ({"include-expression": "metadata['edge']=='true'"}, "/MOVIE/x", None),
        ({"url-expression": "uri"}, "/MOVIE/x", None),
    ],
    ids=["as told", "case counts", "lower case", "own predicates", "expression", "other address"],
)
def test_the_locator_makes_a_route_of_a_service(options, path, found):
    given = {f"{LOCATOR}.{name}": value for name, value in {"enabled": True, **options}.items()}
    table = load(Properties.of(given), lambda _: never, services=["MOVIE"])
    pair = table.find(Exchange("GET", path, path))
    route = pair[0] if pair else None
    assert (route and (route.id, route.uri, route.located)) == found
