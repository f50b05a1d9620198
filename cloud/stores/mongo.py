"""The document store by Spring's `spring.data.mongodb` properties."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from cloud.lean import without

with without("cryptography", "OpenSSL"):  # TLS by pyOpenSSL; Python's own is there
    from pymongo import MongoClient
    from pymongo.database import Database
    from pymongo.errors import ConfigurationError as DriverConfigurationError
    from pymongo.errors import ConnectionFailure, ExecutionTimeout, InvalidOperation, InvalidURI
    from pymongo.uri_parser import parse_uri

from cloud.config import Environment, Properties
from cloud.errors import CloudError, ConfigurationError, UnavailableError
from cloud.refresh import scope, settings_below

# What `cloud.web` answers with 503. A wait for a server, an answer or a pooled connection that
# ended is a ConnectionFailure, as is a primary that stepped down. InvalidOperation is what a pool
# answers that a refresh has replaced, to who kept it for longer than a request may take.
TRANSLATIONS: Final[Mapping[type[Exception], type[CloudError]]] = {
    ConnectionFailure: UnavailableError,
    ExecutionTimeout: UnavailableError,
    InvalidOperation: UnavailableError,
}
_URI: Final = "spring.data.mongodb.uri"

Document = dict[str, Any]


def database(properties: Properties) -> Database[Document]:
    """Describe the database that `spring.data.mongodb.uri` names; the first use connects.

    An option given in the URI wins over what is chosen here.

    Raises:
        ConfigurationError: the URI is absent, malformed or names no database.
    """
    uri = properties.text(_URI)
    try:
        parsed = parse_uri(uri)
    except (InvalidURI, DriverConfigurationError, ValueError):
        parsed = {"database": None}
    if not parsed["database"]:
        raise ConfigurationError(
            f"{properties.application}: {_URI} ({properties.origin(_URI)}) is not of the form"
            " mongodb://host:port/database"
        )
    given = {name.lower() for name in parsed["options"]}
    chosen = {
        name: value for name, value in _options(properties).items() if name.lower() not in given
    }
    client: MongoClient[Document] = MongoClient(uri, connect=False, tz_aware=True, **chosen)
    return client[parsed["database"]]


def shared(environment: Environment) -> Database[Document]:
    """Return the process's one database, made anew when a refresh has changed its settings."""
    properties = environment.properties
    return scope(environment).get(
        "mongodb",
        settings_below(properties, "spring.data.mongodb", "nozie.mongodb", "nozie.server.threads"),
        lambda: database(properties),
        retire=lambda old: old.client.close(),
    )


def check(of: Database[Document] | Environment) -> Callable[[], Mapping[str, Any]]:
    """Build the health check `mongo`, of an environment's present database."""

    def run() -> Mapping[str, Any]:
        database = shared(of) if isinstance(of, Environment) else of
        answer = database.command("hello")
        return {"maxWireVersion": answer.get("maxWireVersion")}

    return run


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ours; also a decorator, for the methods of a store."""
    try:
        yield
    except tuple(TRANSLATIONS) as error:
        raise UnavailableError("the document store is not reachable") from error


def _options(properties: Properties) -> dict[str, Any]:
    connect = _ms(properties, "nozie.mongodb.connect-timeout", 2)
    return {
        "appname": properties.application,
        "serverSelectionTimeoutMS": connect,
        "connectTimeoutMS": connect,
        "waitQueueTimeoutMS": _ms(properties, "nozie.mongodb.pool-timeout", 2),
        "socketTimeoutMS": _ms(properties, "nozie.mongodb.socket-timeout", 5),
        # A thread uses one connection at a time.
        "maxPoolSize": properties.integer("nozie.server.threads", 8, minimum=1),
        # An answered write survives a crash and a change of primary.
        "w": "majority",
        "journal": True,
    }


def _ms(properties: Properties, key: str, default: int) -> int:
    return round(properties.duration(key, timedelta(seconds=default)) / timedelta(milliseconds=1))
