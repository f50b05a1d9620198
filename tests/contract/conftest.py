from collections.abc import Iterator

import pytest

from tests.contract.houses import Houses, closed_clients


@pytest.fixture
def houses(request: pytest.FixtureRequest) -> Iterator[Houses]:
    """The five services, built on fresh stores when they are asked for."""
    built = Houses(request.getfixturevalue)
    with closed_clients():
        yield built
        built.close()
