"""HTTP in, one use case, HTTP out; by audience: web and JVM callers, the app, live streams."""

from notification.routes import api, client

blueprints = (api.bp, client.bp)

__all__ = ["blueprints"]
