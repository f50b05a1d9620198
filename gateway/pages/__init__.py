"""Pages for people: the platform's API documents at /docs, an operator's view at /ops."""

from gateway.pages import docs, ops

__all__ = ["docs", "ops"]
