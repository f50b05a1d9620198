"""What an instance does before it serves."""

import pytest

from cloud.config import Environment
from cloud.errors import ConfigurationError, UnavailableError
from cloud.testing import properties
from movie.settings import Settings
from movie.worker import prepare

pytestmark = pytest.mark.estate


def environment(uri: str, **values: str) -> Environment:
    return Environment(properties("movie-service", {"spring.data.mongodb.uri": uri, **values}))


def test_preparing_twice_changes_nothing(movie_uri, db):
    wanted = environment(movie_uri, **{"nozie.movie.seed": "true"})
    prepare(wanted)
    first = list(db["movies"].find().sort("_id"))
    prepare(wanted)
    assert list(db["movies"].find().sort("_id")) == first
    assert len(first) >= 240


def test_without_the_setting_nothing_is_invented(movie_uri, db):
    prepare(environment(movie_uri))
    assert db["movies"].count_documents({}) == 0


def test_a_store_that_is_away_is_said_to_be(movie_uri):
    """In words that stay the same, so that they are said once."""
    gone = {"nozie.mongodb.connect-timeout": "200ms"}
    with pytest.raises(UnavailableError, match=r"^the document store is not reachable$"):
        prepare(environment("mongodb://127.0.0.1:1/moviedb", **gone))


def test_open_writes_are_refused_in_production():
    with pytest.raises(ConfigurationError, match="open-writes"):
        Settings.of(properties("movie-service", {"nozie.movie.open-writes": "true"}, "prod"))
    assert Settings.of(
        properties("movie-service", {"nozie.movie.open-writes": "true"}, "dev")
    ).open_writes
