"""Settings, and what is refused in earnest."""

import pytest

from cloud.errors import ConfigurationError
from cloud.testing import properties
from identity.settings import Settings


def test_the_published_password_is_for_development_only():
    assert Settings.of(properties("identity-service", {})).initial_password == "admin123"
    assert Settings.of(properties("identity-service", {}, "prod")).initial_password is None


@pytest.mark.parametrize(
    ("key", "value", "profile"),
    [
        pytest.param("nozie.admin.initial-password", "admin123", "prod", id="published password"),
        pytest.param("jwt.access-token-expiration", "10", "test", id="a life of 10 ms"),
        pytest.param("nozie.identity.bcrypt-cost", "3", "test", id="a cost BCrypt has not"),
        pytest.param("nozie.identity.lockout.attempts", "many", "test", id="no number"),
    ],
)
def test_a_bad_value_names_its_key(key: str, value: str, profile: str):
    with pytest.raises(ConfigurationError, match=key):
        Settings.of(properties("identity-service", {key: value}, profile))
