"""Who wins: cloud.config beside a real Spring Boot, given the same files and environment."""

import pytest

from cloud.config import Properties, load
from tests.estate.conftest import PROOF
from tests.estate.programs import NEIGHBOUR

pytestmark = [pytest.mark.estate, pytest.mark.timeout(300)]

TEXTS = [
    pytest.param("proof.here", "application.yml", id="the application's own file"),
    pytest.param("proof.profile", "application-dev.yml", id="a profile's file over it"),
    pytest.param("proof.profiles", "application-late.yml", id="the later profile over the earlier"),
    pytest.param("proof.included", "application-extra.yml", id="an included profile"),
    pytest.param("proof.document", "of dev", id="a document of a profile"),
    pytest.param("proof.both", "of extra, not of prod", id="a document of an expression"),
    pytest.param("proof.environment", "environment", id="the environment over files"),
    pytest.param("proof.json", "json", id="SPRING_APPLICATION_JSON over the environment"),
    pytest.param("proof.dashed-name", "environment", id="a variable drops dashes"),
    pytest.param("proof.underscored-name", "environment", id="or makes them underscores"),
    pytest.param("proof.camel-name", "a camel", id="camel case is the same name"),
    pytest.param("proof.routes[0].id", "from the environment", id="a variable with a number"),
    pytest.param("proof.nested.list[1]", "b", id="a list in JSON"),
    pytest.param("proof.other", "application-dev.yml", id="a placeholder sees the winner"),
    pytest.param("proof.inner", "the default", id="a default within a default"),
    pytest.param("proof.of-environment", "a token", id="a placeholder of a variable"),
    pytest.param("proof.with-colon", "http://localhost:1/path", id="a default with colons"),
    pytest.param("proof.drawn", "5", id="a random number between 5 and 5"),
    pytest.param("proof.absent", None, id="what nobody has"),
    pytest.param("proof.truth", "true", id="yes is true"),
    pytest.param("proof.quoted", "017", id="a text of digits"),
    pytest.param("proof.empty", "", id="nothing is an empty text"),
    pytest.param("proof.block", "two\nlines\n", id="lines"),
    pytest.param(
        "spring.datasource.hikari.maximum-pool-size", "4",
        id="the Config Server's file of a profile over ours of it",
    ),
    pytest.param("jwt.expiration", "2", id="ours of a profile over the Config Server's for all"),
    pytest.param("nozie.customer.prefetch", "50", id="the Config Server's over our own"),
    pytest.param("nozie.server.deregister-wait", "2s", id="its dev over its application"),
    pytest.param("nozie.customer.sweep-interval", "environment", id="the environment over both"),
    pytest.param("spring.rabbitmq.host", "127.0.0.1", id="its placeholder, our environment"),
    pytest.param(
        "nozie.example.secret", "a value that only the estate's key opens", id="what it deciphered"
    ),
]  # fmt: skip
LISTS = [
    pytest.param("proof.list", ["one", "two", "three"], id="a list"),
    pytest.param("proof.words", ["one", "two"], id="words"),
    pytest.param("proof.shorter", ["only"], id="a shorter list replaces the whole"),
    pytest.param("proof.by-number", ["from the environment"], id="so does one of variables"),
    pytest.param("proof.nothing", [], id="none"),
]

NUMBERS = [
    pytest.param("proof.decimal", "1.1", "1.10", id="a last zero"),
    pytest.param("proof.octal", "15", "017", id="a first zero"),
    pytest.param("proof.thousands", "1000", "1_000", id="underscores"),
]


@pytest.fixture(scope="module")
def ours(platform) -> Properties:
    site = platform.site
    told = {"NEIGHBOUR_CONFIG": site.url("config"), "SPRING_RABBITMQ_HOST": "127.0.0.1"}
    return load(NEIGHBOUR, PROOF | told)


@pytest.mark.parametrize(("key", "expected"), TEXTS)
def test_the_same_value_wins(neighbour, ours, key, expected):
    theirs = neighbour.get(f"/property/{key}").json()
    assert {"JVM": theirs.get("text"), "ours": ours.get(key)} == {"JVM": expected, "ours": expected}


@pytest.mark.parametrize(("key", "expected"), LISTS)
def test_the_same_list_wins(neighbour, ours, key, expected):
    theirs = neighbour.get(f"/property/{key}").json()
    assert theirs["list"] == list(ours.listing(key)) == expected


@pytest.mark.parametrize(("key", "theirs", "ours_is"), NUMBERS)
def test_numbers_of_a_file_stay_as_they_are_written(neighbour, ours, key, theirs, ours_is):
    """The one difference, on purpose (docs/adr/0010-spring-properties-in-python.md)."""
    assert neighbour.get(f"/property/{key}").json()["text"] == theirs
    assert ours.get(key) == ours_is
