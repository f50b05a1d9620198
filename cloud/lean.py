"""Loads the libraries that try for extras, without the extras that no house uses.

A library looks for its extra when it is imported, and keeps it for good if it happens to be
installed, for another library or for a developer's tool. Each costs megabytes in every instance
(docs/adr/0024-memory.md).
"""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*extras: str) -> Iterator[None]:
    """Let imports inside find none of these top-level modules; after it all is as before."""
    present = {name: sys.modules[name] for name in extras if name in sys.modules}
    sys.modules.update(dict.fromkeys(extras))  # type: ignore[arg-type]  # None: "not to be found"
    try:
        yield
    finally:
        for name in extras:
            del sys.modules[name]
        sys.modules.update(present)


with without("rich", "pygments"):  # coloured tracebacks; a command line
    import httpx  # noqa: F401  # of py-eureka-client
    import structlog  # noqa: F401
with without("redis"):  # a circuit shared over Redis
    import pybreaker  # noqa: F401
with without("cryptography"):  # RS, ES and PS signatures; our tokens are HS, and no other is taken
    import jwt  # noqa: F401
with without("chardet", "charset_normalizer"), warnings.catch_warnings():
    # Guesses the encoding of a text that names none; we read bytes and JSON.
    warnings.simplefilter("ignore")
    import requests  # noqa: F401
