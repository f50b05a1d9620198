"""TLS by Spring's names: whom a client trusts, and how it shows who it is.

Below a prefix such as `spring.cloud.config.tls` or `eureka.client.tls`, as Spring Cloud's
TlsProperties has them: `enabled`, `key-store`, `key-store-type`, `key-store-password`,
`key-password`, `trust-store`, `trust-store-type`, `trust-store-password`. Stores are PKCS12, which
is the default, or PEM; a PEM key store holds the key and its certificates.
"""

import os
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
from requests.adapters import HTTPAdapter

from cloud import aside
from cloud.errors import ConfigurationError, UnavailableError

if TYPE_CHECKING:
    from cloud.config import Properties

log = structlog.get_logger()

_STORES: Final = ("key-store", "trust-store")
_PKCS12 = ("PKCS12", "P12", "PFX")
_OF_PORT: Final = frozenset(
    {
        *("enabled", "keystore", "keystoretype", "keystorepassword", "keypassword"),
        *("certificate", "certificateprivatekey", "clientauth", "trustcertificate"),
        *("truststore", "truststoretype", "truststorepassword"),
    }
)
_ASKED: Final = {"none": ssl.CERT_NONE, "want": ssl.CERT_OPTIONAL, "need": ssl.CERT_REQUIRED}


def context(properties: "Properties", prefix: str) -> ssl.SSLContext | None:
    """Build what the properties below the prefix ask for, None when TLS is not enabled there.

    Without a trust store the system's authorities are trusted; with one, nobody but it holds.
    The server's name is checked always, TLS 1.2 is the least.

    Raises:
        ConfigurationError: a store cannot be used. One line: key, source, reason.
    """
    if not properties.boolean(f"{prefix}.enabled", default=False):
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    _trust(made, properties, f"{prefix}.trust-store")
    identify(made, properties, prefix)
    return made


def serving(properties: "Properties", prefix: str = "server.ssl") -> ssl.SSLContext | None:
    """Build what a port speaks TLS by, as Spring Boot's `server.ssl` asks for it; None without it.

    Key and certificates stand in `key-store`, as with clients, or in the PEM files `certificate`
    and `certificate-private-key`. `client-auth` is `none`, `want` or `need`; whom clients must
    have their certificates from, `trust-store` or the PEM file `trust-certificate` says.

    Raises:
        ConfigurationError: as `context`, or nothing is there to show, or what else Spring Boot has
            below the prefix is asked for: bundles, aliases, ciphers, protocols.
    """
    if properties.boolean(f"{prefix}.enabled", default=True):
        for name in sorted(properties.subset(prefix)):
            if re.sub("[.-]", "", name).lower() not in _OF_PORT:
                raise properties.wrong(f"{prefix}.{name}", "is not followed here")
    made = _showing(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), properties, prefix)
    if made is None:
        return None
    made.set_alpn_protocols(["http/1.1"])
    asked = properties.text(f"{prefix}.client-auth", "none").lower()
    if asked not in _ASKED:
        raise properties.wrong(f"{prefix}.client-auth", "is none of none, want, need")
    made.verify_mode = _ASKED[asked]
    if authority := properties.get(f"{prefix}.trust-certificate"):
        with _told(properties, f"{prefix}.trust-certificate"):
            made.load_verify_locations(_path(authority))
    elif made.verify_mode != ssl.CERT_NONE:
        _trust(made, properties, f"{prefix}.trust-store")
    return made


class Shown:
    """What all workers of an instance show at its ports: gunicorn's hook `ssl_context`.

    The arbiter reads the stores, once, so no worker can be kept from its start by them.

    Attributes:
        file: where the certificate is, by which gunicorn tells that TLS is spoken.
    """

    def __init__(self, properties: "Properties", context: ssl.SSLContext) -> None:
        self._properties, self._context = properties, context
        store = properties.get("server.ssl.key-store")
        self.file = str(_path(store or properties.text("server.ssl.certificate")))

    @classmethod
    def of(cls, properties: "Properties") -> "Shown | None":
        """Read `server.ssl`; None without TLS.

        Raises:
            ConfigurationError: as `serving`.
        """
        made = serving(properties)
        return cls(properties, made) if made else None

    def __call__(self, _config: object, _default: object) -> ssl.SSLContext:
        return self._context

    def renew(self) -> None:
        """Read the stores again, for workers to come; what cannot be read changes nothing."""
        try:
            self._context = serving(self._properties) or self._context
        except ConfigurationError as error:
            log.warning("tls_store_not_renewed", reason=str(error))


def to_oneself(properties: "Properties", prefix: str = "server.ssl") -> ssl.SSLContext | None:
    """Build what an instance asks its own port by, on this machine; None when it speaks no TLS.

    It shows the port's own certificate, and does not ask whether it may believe itself.

    Raises:
        ConfigurationError: as `serving`.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return _showing(made, properties, prefix)


def _showing(made: ssl.SSLContext, properties: "Properties", prefix: str) -> ssl.SSLContext | None:
    shown = [f"{prefix}.key-store", f"{prefix}.certificate"]
    given = [key for key in shown if properties.get(key)]
    # As Spring Boot: whoever says anything of it wants it.
    if not properties.boolean(f"{prefix}.enabled", default=bool(properties.subset(prefix))):
        return None
    if not given:
        raise properties.wrong(shown[0], "is not set, nor is certificate")
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if given[0] == shown[0]:
        identify(made, properties, prefix)
    else:
        _show_files(made, properties, prefix)
    return made


def _show_files(made: ssl.SSLContext, properties: "Properties", prefix: str) -> None:
    key = f"{prefix}.certificate"
    own = properties.get(f"{key}-private-key")
    password = properties.get(f"{prefix}.key-password") or ""
    with _told(properties, key):
        made.load_cert_chain(
            _path(properties.text(key)), _path(own) if own else None, password=lambda: password
        )


def adapter(properties: "Properties", prefix: str) -> "Adapter | None":
    """Build what a session is to send its requests by, None when TLS is not enabled there.

    Raises:
        ConfigurationError: as `context`.
    """
    enabled = properties.boolean(f"{prefix}.enabled", default=False)
    return Adapter(properties, prefix) if enabled else None


class Renewed:
    """What `context` builds, and builds again when its stores were renewed on disk.

    A store that was replaced by a broken one is told once in the log; the one before it holds on.

    Attributes:
        context: None when TLS is not enabled.

    Raises:
        ConfigurationError: a store cannot be used.
    """

    def __init__(self, properties: "Properties", prefix: str) -> None:
        self._read: Callable[[], ssl.SSLContext | None] = lambda: context(properties, prefix)
        self._stores = [
            _path(location) for name in _STORES if (location := properties.get(f"{prefix}.{name}"))
        ]
        self._seen = self._stamps()
        self.context = self._read()

    def renew(self) -> bool:
        """Look at the stores; True when there is a new context."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            self.context = self._read()
        except ConfigurationError as error:
            log.warning("tls_store_not_renewed", reason=str(error))
            return False
        log.info("tls_store_renewed", stores=[str(path) for path in self._stores])
        return True

    def _stamps(self) -> list[tuple[int, int] | None]:
        return [_stamp(path) for path in self._stores]


class Adapter(HTTPAdapter):
    """Sends a session's requests by a `Renewed` context; mount it for `https://`.

    Raises:
        ConfigurationError: a store cannot be used.
    """

    def __init__(self, properties: "Properties", prefix: str) -> None:
        self._tls = Renewed(properties, prefix)
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **more: Any) -> None:
        super().init_poolmanager(*arguments, **more, ssl_context=self._tls.context)

    def proxy_manager_for(self, *arguments: Any, **more: Any) -> Any:
        # What goes through a proxy's tunnel trusts no other authorities than what goes straight.
        return super().proxy_manager_for(*arguments, **more, ssl_context=self._tls.context)

    def cert_verify(self, conn: Any, url: str, verify: object, cert: object) -> None:
        """Leave all to the context: else the library's own authorities would be trusted too."""

    def send(self, *arguments: Any, **more: Any) -> Any:
        if self._tls.renew():
            self.poolmanager.clear()
            self.proxy_manager.clear()
            self.poolmanager.connection_pool_kw["ssl_context"] = self._tls.context
        return super().send(*arguments, **more)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _path(location: str) -> Path:
    return Path(location.removeprefix("file://").removeprefix("file:"))


def trust(
    made: ssl.SSLContext, properties: "Properties", key: str, files: Sequence[str] = ()
) -> None:
    """Trust the authorities in PEM files that `key` names; the system's when it names none.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    if not files:
        made.load_default_certs()
    for file in files:
        with _told(properties, key):
            made.load_verify_locations(_path(file))


def _trust(made: ssl.SSLContext, properties: "Properties", key: str) -> None:
    store = _store(properties, key)
    if store is None:
        made.load_default_certs()
        return
    with _told(properties, key):
        pem = store if isinstance(store, str) else aside.certificates(*store)
        made.load_verify_locations(cadata=pem)


def identify(made: ssl.SSLContext, properties: "Properties", prefix: str) -> None:
    """Show the certificate in `<prefix>.key-store`, if there is one.

    Raises:
        ConfigurationError: the store cannot be used.
    """
    key = f"{prefix}.key-store"
    store = _store(properties, key)
    if store is None:
        return
    password = properties.get(f"{prefix}.key-password") or properties.get(f"{key}-password") or ""
    with _told(properties, key):
        pem = store if isinstance(store, str) else aside.identity(*store)
        with _in_memory(pem) as file:
            # A function: without one the library would ask the terminal for a password.
            made.load_cert_chain(file, password=lambda: password)


def _store(properties: "Properties", key: str) -> tuple[bytes, str] | str | None:
    """Read a store: PEM as text, PKCS12 as bytes with its password; None when none is set."""
    location = properties.get(key)
    if not location:
        return None
    kind = properties.text(f"{key}-type", "PKCS12").upper()
    if kind != "PEM" and kind not in _PKCS12:
        raise properties.wrong(f"{key}-type", "is neither PKCS12 nor PEM")
    with _told(properties, key):
        blob = _path(location).read_bytes()
        if kind == "PEM":
            return blob.decode("ascii")
        return blob, properties.get(f"{key}-password") or ""


@contextmanager
def _told(properties: "Properties", key: str) -> Iterator[None]:
    """Tell any fault of a store as the start's one line."""
    try:
        yield
    except OSError as error:
        # An SSLError is one too; its words are the library's, about the shape of the store.
        reason = "" if isinstance(error, ssl.SSLError) else f": {error.strerror}"
        raise properties.wrong(key, f"cannot be read{reason or _SHAPE}") from None
    except (aside.RefusedError, UnavailableError) as error:
        raise properties.wrong(key, f"cannot be read: {error}") from None
    except ValueError:
        raise properties.wrong(key, f"cannot be read{_SHAPE}") from None


_SHAPE = ": no certificates, no key, or a password that does not open it"


@contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Give a file that no disk ever holds (memfd_create(2)): the library reads files alone."""
    number = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with open(number, "w", closefd=False) as file:
            file.write(text)
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
