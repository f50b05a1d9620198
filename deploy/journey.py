"""One customer's way through the platform (being written)."""

from collections.abc import Callable


def run(base: str, say: Callable[[str], None], *, as_json: bool = False) -> int:
    """Do nothing yet."""
    del base, say, as_json
    return 0
