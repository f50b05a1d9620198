import importlib
import json
import subprocess
import sys

import pytest

from cloud.lean import without

UNUSED = ("rich", "pygments", "cryptography.hazmat", "charset_normalizer", "alembic")


def test_an_extra_is_hidden_inside_and_only_there():
    before = sys.modules["json"]
    with without("json", "not_installed"), pytest.raises(ImportError):
        importlib.import_module("json")
    assert sys.modules["json"] is before is json
    assert "not_installed" not in sys.modules


@pytest.mark.parametrize(
    ("house", "unused"),
    [
        pytest.param("customer", (*UNUSED, "redis", "pymongo"), id="on PostgreSQL"),
        pytest.param("movie", (*UNUSED, "redis", "sqlalchemy", "psycopg2"), id="on MongoDB"),
        pytest.param("notification", (*UNUSED, "sqlalchemy", "psycopg2"), id="a consumer"),
        pytest.param("gateway", (*UNUSED, "pydantic", "sqlalchemy", "pika"), id="the door"),
    ],
)
def test_a_house_loads_no_library_that_it_does_not_use(house, unused):
    """In a process of its own: this one has loaded what the tests need."""
    program = f"import sys, cloud.server, {house}.app; print(*sys.modules)"
    done = subprocess.run(  # noqa: S603 - the program is ours
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert not set(unused) & set(done.stdout.split())
