"""How tests wait for what happens in its own time, with a deadline and no fixed sleep."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pymongo
import redis

_AWAY = (OSError, redis.RedisError, pymongo.errors.PyMongoError)
_LOOK_AGAIN_S = 0.05


def eventually(look: Callable[[], Any], wanted: Any = None, *, within_s: float = 30) -> Any:
    """Look until it finds what is wanted, or anything true when nothing special is.

    A server that cannot be reached yet is looked at again.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            found = look()
        except _AWAY as error:
            found = error
        else:
            if found == wanted if wanted is not None else found:
                return found
        assert time.monotonic() < deadline, f"{found!r} never became {wanted!r}"
        threading.Event().wait(_LOOK_AGAIN_S)


@contextmanager
def running(environment: Any, *works: Callable[[Any, threading.Event], None]) -> Iterator[None]:
    """Do works of a house meanwhile, a thread each, as its companions would."""
    stop = threading.Event()
    threads = [threading.Thread(target=work, args=(environment, stop)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)
