"""The gateway's own fixtures: a real gateway before upstreams that can be made to fail."""

from tests.gateway.conftest import store  # noqa: F401 - a fixture
