"""Who may use which endpoint: exposure, access, networks, and whose eyes see values.

Spring Boot's keys (reference, "Endpoints"), with one difference: a network, not a login, decides
who is an operator, since Prometheus and Spring Boot Admin come without one. `health` itself is
always there: Eureka is told what it says.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from flask import Response, current_app, request
from werkzeug.exceptions import MethodNotAllowed

from cloud import security
from cloud.clock import utc_now
from cloud.config import Environment, Properties
from cloud.config.management import base_path, ensure_own_port_usable, own_port
from cloud.errors import ConfigurationError, DeniedError, NotFoundError, UnauthenticatedError
from cloud.security import OPEN_PROFILES, Principal

_HEALTH: Final = "health"
_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_RANKS: Final = ("none", "read-only", "unrestricted")
# Where nothing says what is exposed: everything in development, elsewhere what gives nothing away.
_SAFE: Final = (_HEALTH, "info", "metrics", "prometheus")
# What changes how traffic flows is off until it is switched on.
_CAREFUL: Final = {
    "circuitbreakers": "read-only",
    "gateway": "read-only",
    "serviceregistry": "read-only",
    "shutdown": "none",
}
_DEFAULT: Final = "management.endpoints.access.default"
_LIMIT: Final = "management.endpoints.access.max-permitted"
_CORS: Final = "management.endpoints.web.cors"
_PREFLIGHT: Final = timedelta(minutes=30)


class Access:
    """The rules of one instance; a refresh takes effect with the next request.

    Attributes:
        known: ids of the endpoints that there are, by what they are called in paths.
        beside: paths that belong to the endpoints' port without being below the base path.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self.known: dict[str, str] = {}
        self.beside: set[str] = set()
        self._base = base_path(environment.properties)
        port = own_port(environment.properties)
        self._port = None if port is None else str(port)
        self._ensure_known(environment.properties)
        environment.require(self._ensure_known)

    @property
    def _properties(self) -> Properties:
        return self._environment.properties

    @staticmethod
    def _ensure_known(properties: Properties) -> None:
        """Refuse words that Spring does not know, and a port that cannot be.

        Raises:
            ConfigurationError: an access that is none of `_RANKS`; see also that port's check.
        """
        ensure_own_port_usable(properties)
        given = properties.subset("management.endpoint")
        keys = [f"management.endpoint.{key}" for key in given if key.endswith(".access")]
        for key in (*keys, _DEFAULT, _LIMIT):
            _rank(properties, key, "none")

    # --- requests

    def guard(self) -> None:
        """Refuse what is not for this client, below the base path, and what is at the wrong port.

        Raises:
            NotFoundError: the endpoint is not exposed, or cannot be written to, or is elsewhere.
            MethodNotAllowed: it can be read only.
            DeniedError: the client's network, or its page, is not among the allowed.
        """
        called = self._endpoint(request.path)
        if self._port is not None:
            self._ensure_at_its_port(managed=called is not None or request.path in self.beside)
        # Settings are read for names that we know, not for whatever a client thinks of.
        name = self.known.get(called or "")
        if called is None or name == _HEALTH:
            return
        if name and not self.exposes(name):
            raise NotFoundError("No such endpoint")
        if not self.trusts_client():
            raise DeniedError("Not for this network")
        if request.method in _READS or name is None:
            return
        if self._access(name) != "unrestricted":
            self._refuse_write()
        if request.headers.get("Sec-Fetch-Site") == "cross-site":
            raise DeniedError("Not for pages of other sites")

    def _ensure_at_its_port(self, *, managed: bool) -> None:
        """Answer as if nothing were here, at either port, for what is at the other."""
        if managed != (request.environ.get("SERVER_PORT") == self._port):
            raise NotFoundError("Resource not found")

    @staticmethod
    def _refuse_write() -> None:
        """Answer as where only what reads was ever there, which is what Spring Boot has then."""
        known = current_app.create_url_adapter(request)
        left = _READS.intersection(known.allowed_methods()) if known else ()
        if "GET" in left:
            raise MethodNotAllowed(sorted(left))
        raise NotFoundError("Resource not found")

    def _endpoint(self, path: str) -> str | None:
        """Return what a path calls the endpoint, empty for the index, None outside of it all."""
        below = path.removeprefix(self._base)
        if below == path or (below and below[0] != "/"):
            return None
        return below[1:].partition("/")[0]

    def whole(self) -> str | None:
        """Return the id of the endpoint that is asked for as a whole, without a selector."""
        below = request.path.removeprefix(f"{self._base}/")
        return self.known.get(below) if below != request.path else None

    def exposes(self, name: str) -> bool:
        """Tell whether the endpoint of that id is there at all."""
        if name == _HEALTH:
            return True
        properties = self._properties
        exposure = "management.endpoints.web.exposure"
        open_ = OPEN_PROFILES.issuperset(properties.profiles)
        included = properties.listing(f"{exposure}.include", ("*",) if open_ else _SAFE)
        excluded = properties.listing(f"{exposure}.exclude")
        named = _among(name, included) and not _among(name, excluded)
        return named and self._access(name) != "none"

    def _access(self, name: str) -> str:
        properties, own = self._properties, f"management.endpoint.{name}"
        least = _CAREFUL.get(name, _RANKS[-1])
        if properties.get(f"{own}.enabled"):  # before Spring Boot 3.4
            if not properties.boolean(f"{own}.enabled"):
                return "none"
            least = _RANKS[-1] if least == "none" else least
        overall = _rank(properties, _DEFAULT, least)
        ranks = (_rank(properties, f"{own}.access", overall), _rank(properties, _LIMIT, _RANKS[-1]))
        return min(ranks, key=_RANKS.index)

    def trusts_client(self) -> bool:
        """Tell whether the client's address, not what its headers claim, is an operator's."""
        properties = self._properties
        client = security.client_address(
            request.remote_addr or "",
            request.headers.get("X-Forwarded-For"),
            security.trusted_proxies(properties, "web"),
        )
        return security.is_within(client, security.allowed_networks(properties))

    def shows(self, what: str, default: str, *owners: str) -> bool:
        """Tell whether this client sees `show-<what>`.

        `never`, `always`, or `when-authorized`: to who has one of the endpoint's `roles`, ADMIN
        when none is given. Whatever it is, only within the allowed networks.

        Args:
            what: `details`, `components`, `values`.
            default: of the three, when nothing is set.
            owners: whose setting counts, as in `management.endpoint.<owner>`; the first that has
                one decides.
        """
        wanted = self._first(f"show-{what}", owners) or default
        wanted = wanted.lower().replace("_", "-")
        if wanted in {"always", "when-authorized"}:
            roles = (self._first("roles", owners) or "ADMIN").split(",")
            return self.trusts_client() and (wanted == "always" or self._caller_has(roles))
        return False

    def _first(self, key: str, owners: Sequence[str]) -> str | None:
        keys = (f"management.endpoint.{owner}.{key}" for owner in owners)
        found = (",".join(self._properties.listing(key)) for key in keys)
        return next((text for text in found if text), None)

    def _caller_has(self, roles: Sequence[str]) -> bool:
        # The gateway has verified it already, and knows of revocations.
        caller: Principal | None = request.environ.get("nozie.principal")
        if caller is None and "Authorization" in request.headers:
            try:
                token = security.bearer(request.headers["Authorization"])
                secret = security.jwt_secret(self._properties)
                caller = security.verify(token, secret, now=utc_now())
            except (UnauthenticatedError, ConfigurationError):
                return False
        return caller is not None and any(caller.has_role(role) for role in roles)

    # --- answers to browsers

    def allow_origin(self, response: Response) -> Response:
        """Add CORS headers for the origins of `management.endpoints.web.cors.allowed-origins`."""
        origin = request.headers.get("Origin")
        if origin is None or self._endpoint(request.path) is None:
            return response
        allowed = self._properties.listing(f"{_CORS}.allowed-origins")
        if origin not in allowed and "*" not in allowed:
            return response
        headers = response.headers
        headers["Access-Control-Allow-Origin"] = origin if origin in allowed else "*"
        response.vary.add("Origin")
        if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
            methods = self._properties.listing(f"{_CORS}.allowed-methods", ("GET",))
            wanted = self._properties.listing(f"{_CORS}.allowed-headers", ("Accept",))
            headers["Access-Control-Allow-Methods"] = ", ".join(methods)
            headers["Access-Control-Allow-Headers"] = ", ".join(wanted)
            age = self._properties.duration(f"{_CORS}.max-age", _PREFLIGHT, unit="s")
            headers["Access-Control-Max-Age"] = str(round(age.total_seconds()))
        return response


def _rank(properties: Properties, key: str, default: str) -> str:
    found = properties.text(key, default).lower().replace("_", "-")
    if found not in _RANKS:
        raise ConfigurationError(
            f"{properties.application}: {key} is none of {', '.join(_RANKS)}"
            f" (from {properties.origin(key)})"
        )
    return found


def _among(name: str, listed: Sequence[str]) -> bool:
    return any(one == "*" or _plain(one) == _plain(name) for one in listed)


def _plain(name: str) -> str:
    """Spell an id as Spring compares it: `http-exchanges` is `httpexchanges`."""
    return name.replace("-", "").replace(".", "").lower()
