"""An application of each test's own at the real Eureka, and a door before it."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from tests.cloud.door import Door
from tests.cloud.eureka import Voice


@pytest.fixture
def app() -> str:
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def door(eureka_url: str) -> Iterator[Door]:
    with closing(Door(urlsplit(eureka_url).netloc)) as door:
        yield door


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Hang up after a test."""
    yield
    while Voice.made:
        Voice.made.pop().server.close()
