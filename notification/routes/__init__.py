"""HTTP in, one use case, HTTP out; by audience: web and JVM callers, the app, live streams."""

from notification.routes import api, client, people

blueprints = (api.bp, client.bp, people.bp)

__all__ = ["blueprints"]
