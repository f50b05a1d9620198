"""Redis by Spring's `spring.data.redis` properties."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from cloud.lean import without

with without("opentelemetry.sdk.metrics"):  # the client's own metrics; ours are Prometheus'
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

from cloud.config import Environment, Properties
from cloud.errors import CloudError, UnavailableError
from cloud.refresh import scope, settings_below

# What `cloud.web` answers with 503; a time-out, a refused connection, a full or loading server.
TRANSLATIONS: Final[Mapping[type[Exception], type[CloudError]]] = {
    redis.ConnectionError: UnavailableError,
    redis.TimeoutError: UnavailableError,
    redis.OutOfMemoryError: UnavailableError,
    redis.ReadOnlyError: UnavailableError,
}


def client(properties: Properties) -> redis.Redis:
    """Describe the server; the first use connects. Keys and values are text (UTF-8)."""
    prefix = "spring.data.redis"
    options: dict[str, Any] = {
        "socket_connect_timeout": _seconds(properties, f"{prefix}.connect-timeout"),
        "socket_timeout": _seconds(properties, f"{prefix}.timeout"),
        # One more attempt at once: a connection that died while it rested is replaced unseen.
        "retry": Retry(NoBackoff(), 1),
        "decode_responses": True,
        "client_name": properties.application,
    }
    if url := properties.get(f"{prefix}.url"):
        return redis.Redis.from_url(url, **options)
    return redis.Redis(
        host=properties.text(f"{prefix}.host", "localhost"),
        port=properties.integer(f"{prefix}.port", 6379, minimum=1, maximum=65535),
        db=properties.integer(f"{prefix}.database", 0, minimum=0),
        username=properties.get(f"{prefix}.username"),
        password=properties.get(f"{prefix}.password"),
        ssl=properties.boolean(f"{prefix}.ssl.enabled", False),  # noqa: FBT003 - the default
        **options,
    )


def shared(environment: Environment) -> redis.Redis:
    """Return the process's one client, made anew when a refresh has changed its settings."""
    properties = environment.properties
    return scope(environment).get(
        "redis",
        settings_below(properties, "spring.data.redis"),
        lambda: client(properties),
        retire=lambda old: old.connection_pool.disconnect(inuse_connections=False),
    )


def check(of: redis.Redis | Environment) -> Callable[[], Mapping[str, Any]]:
    """Build the health check `redis`, of an environment's present client."""

    def run() -> Mapping[str, Any]:
        client = shared(of) if isinstance(of, Environment) else of
        return {"version": client.info("server")["redis_version"]}

    return run


def _seconds(properties: Properties, key: str) -> float:
    return properties.duration(key, timedelta(seconds=2)).total_seconds()
