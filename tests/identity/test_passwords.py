"""BCrypt, and how much of it at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import bcrypt
import pytest

from identity.domain import BusyError
from identity.service import Passwords


def passwords(waiting: int = 0, patience: timedelta = timedelta(seconds=10)) -> Passwords:
    return Passwords(4, parallel=1, waiting=waiting, patience=patience)


def test_a_hash_is_what_spring_security_writes():
    hashed = passwords().hash("right-horse")
    assert hashed.startswith("$2a$04$")
    assert len(hashed) == 60
    assert passwords().match("right-horse", hashed)
    assert not passwords().match("wrong", hashed)


def test_a_name_that_nobody_has_never_matches():
    assert not passwords().match("anything", None)


def test_a_longer_password_of_a_jvm_account_still_works():
    """It hashed the first 72 bytes and ignored the rest (ID-24)."""
    hashed = bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4, b"2a")).decode()
    assert passwords().match("x" * 80, hashed)


@pytest.mark.parametrize(
    ("waiting", "patience"),
    [
        pytest.param(0, timedelta(seconds=10), id="nobody may wait"),
        pytest.param(1, timedelta(), id="nobody is patient"),
    ],
)
def test_one_too_many_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, waiting: int, patience: timedelta
):
    started, go_on = threading.Event(), threading.Event()
    few = passwords(waiting, patience)

    def slow(password: bytes, _: bytes) -> bytes:
        started.set()
        assert go_on.wait(10)
        return password

    monkeypatch.setattr(bcrypt, "hashpw", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(few.hash, "right-horse")
        assert started.wait(10)
        with pytest.raises(BusyError):
            few.hash("right-horse")
        go_on.set()
        assert first.result() == "right-horse"
    assert few.hash("next") == "next"
