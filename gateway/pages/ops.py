"""What an operator sees: routes, instances, breakers, limits and cache of this instance, live.

A browser cannot send a bearer token by itself. Signing in trades a password, through identity's own
rules, for an access token in a cookie that no script and no other site can use; the edge reads it
as it reads a bearer token, with all that is checked there.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import orjson
import redis
import structlog
from flask import Blueprint, Response, render_template, request, send_from_directory

from cloud.actuator import meters
from cloud.client import Answer, ServiceClient
from cloud.clock import Clock, utc_now
from cloud.config import Environment
from cloud.errors import CloudError, DeniedError, UnauthenticatedError
from cloud.eureka import Instance, folder, view
from cloud.security import Principal, jwt_secret, verify
from cloud.stores import redis as redis_store
from gateway.filters.metadata_cache import INDEX
from gateway.handler import COOKIE
from gateway.route import definitions
from gateway.settings import Settings

log = structlog.get_logger(__name__)

_ROLE = "ADMIN"
_IDENTITY = "identity-service"
_EVERY_S = 3
_OK, _SEE_OTHER, _FORBIDDEN, _UNAVAILABLE = 200, 303, 403, 503
_THROTTLED = "429"
_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)

View = Callable[[], Response]


def blueprint(environment: Environment, now: Clock = utc_now) -> Blueprint:
    """Build the pages."""
    rooms, ops = Blueprint("ops", __name__, url_prefix="/ops"), _Ops(environment, now)
    rooms.after_request(_guarded)
    rooms.get("")(ops.overview)
    rooms.get("/sign-in")(ops.form)
    rooms.post("/session")(_same_origin(ops.sign_in))
    rooms.post("/sign-out")(_same_origin(ops.sign_out))
    rooms.get("/style.css")(ops.style)
    return rooms


class _Ops:
    def __init__(self, environment: Environment, now: Clock) -> None:
        self._environment = environment
        self._now = now
        self._identity = ServiceClient(_IDENTITY, environment, timeout=timedelta(seconds=5))

    # --- who may see it

    def form(self) -> Response:
        return _page("sign_in.html")

    def sign_in(self) -> Response:
        """Sign in at identity, whose answer to a wrong password is the same as to anybody."""
        names = ("username", "password")
        try:
            answer = self._ask(
                "/api/auth/login", json={name: request.form.get(name, "") for name in names}
            )
            if answer.status != _OK:
                told = str(answer.json()["message"] or "Signing in failed")
                return _page("sign_in.html", answer.status, fault=told)
            token = str(answer.json()["data"]["accessToken"])
            secret = jwt_secret(self._environment.properties)
            principal = verify(token, secret, now=self._now())
        except UnauthenticatedError as error:
            log.warning("sign_in_failed", reason=str(error))
            # Issued with another secret than ours.
            return _page("sign_in.html", _UNAVAILABLE, fault="The token of identity is not ours")
        except (CloudError, KeyError, TypeError) as error:
            log.warning("sign_in_failed", reason=f"{type(error).__name__}: {error}")
            return _page("sign_in.html", _UNAVAILABLE, fault="Signing in is not available")
        if not principal.has_role(_ROLE):
            self._end(token)
            return _page("sign_in.html", _FORBIDDEN, fault=f"This page needs the role {_ROLE}")
        entered = _elsewhere("/ops")
        entered.set_cookie(
            COOKIE,
            token,
            max_age=int((principal.expires_at - self._now()).total_seconds()),
            path="/ops",
            secure=request.scheme == "https",
            httponly=True,
            samesite="Strict",
        )
        return entered

    def sign_out(self) -> Response:
        token = request.cookies.get(COOKIE)
        if token and request.environ.get("nozie.principal"):
            self._end(token)
        left = _elsewhere("/ops/sign-in")
        left.delete_cookie(COOKIE, path="/ops", httponly=True, samesite="Strict")
        return left

    def _ask(self, path: str, *, json: object = None, token: str | None = None) -> Answer:
        headers = {
            "X-Forwarded-For": request.remote_addr or "",
            "User-Agent": request.headers.get("User-Agent", ""),
        }
        return self._identity.request("POST", path, json=json, headers=headers, token=token)

    def _end(self, token: str) -> None:
        """End the session at identity; when that is away, the token ends by itself."""
        try:
            self._ask("/api/auth/logout", token=token)
        except CloudError:
            return

    # --- what there is to see

    def style(self) -> Response:
        return send_from_directory(Path(__file__).parent / "static", "style.css", max_age=3600)

    def overview(self) -> Response:
        principal: Principal | None = request.environ.get("nozie.principal")
        if principal is None:
            if "Authorization" in request.headers:
                raise UnauthenticatedError("Token is invalid, expired or revoked")
            return _elsewhere("/ops/sign-in")
        if not principal.has_role(_ROLE):
            raise DeniedError("Role is missing")
        properties = self._environment.properties
        samples = _Samples()
        limits = Settings.of(properties).limits
        return _page(
            "ops.html",
            every_s=_EVERY_S,
            application=properties.application,
            port=properties.get("server.port"),
            profiles=", ".join(properties.profiles),
            at=f"{self._now():%H:%M:%S} UTC",
            username=principal.username,
            instances=self._instances(),
            routes=[_route(item, samples) for item in definitions(properties)],
            breakers=samples.breakers(),
            limits=[
                *({"bucket": r.bucket, "limit": r.limit, "paths": ", ".join(r.paths)}
                  for r in limits.rules),
                {"bucket": "user", "limit": limits.user, "paths": "with a token, all others"},
                {"bucket": "ip", "limit": limits.ip, "paths": "without one, all others"},
            ],
            window_s=limits.window_s,
            throttled=samples.throttled(),
            cache=samples.cache(),
            kept=self._kept(),
        )  # fmt: skip

    def _instances(self) -> list[Instance]:
        """List all instances in any state; the workers' view knows only those that are UP."""
        path = folder.run_folder(self._environment.properties) / folder.REGISTRY
        try:
            records: list[dict[str, Any]] = orjson.loads(path.read_bytes())
        except (OSError, ValueError):
            records = []
        found = {each.instance_id: each for each in map(Instance.load, records)}
        known = view(self._environment)
        for name in known.services():
            found |= {each.instance_id: each for each in known.instances(name)}
        return sorted(found.values(), key=lambda each: (each.app, each.instance_id))

    def _kept(self) -> str:
        try:
            count = redis_store.shared(self._environment).zcard(INDEX)
        except redis.RedisError:
            return "Redis is away: nothing is kept, limits are local."
        return f"{count} copies in Redis, stale ones included."


class _Samples:
    """The meters of all workers, read once a page."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        for family in meters.registry().collect():
            for sample in family.samples:
                self._by_name[sample.name].append((sample.labels, sample.value))

    def total(self, sample: str, /, **wanted: str) -> float:
        found = self._by_name[sample]
        return sum(value for labels, value in found if wanted.items() <= labels.items())

    def throttled(self) -> int:
        return round(self.total("http_server_requests_seconds_count", status=_THROTTLED))

    def breakers(self) -> list[dict[str, Any]]:
        states: dict[str, list[str]] = defaultdict(list)
        for labels, value in self._by_name["resilience4j_circuitbreaker_state"]:
            if value:
                states[labels["name"]].append(labels["state"])
        rates = {
            labels["name"]: value
            for labels, value in self._by_name["resilience4j_circuitbreaker_failure_rate"]
        }
        return [
            {
                "name": name,
                "states": sorted(held),
                "rate": f"{rates[name]:.0f} %" if rates.get(name, -1) >= 0 else "too few calls",
                "refused": round(
                    self.total("resilience4j_circuitbreaker_not_permitted_calls_total", name=name)
                ),
            }
            for name, held in sorted(states.items())
        ]

    def cache(self) -> list[dict[str, Any]]:
        counts: dict[str, dict[str, int]] = defaultdict(
            lambda: {"hit": 0, "miss": 0, "stale": 0, "pass": 0}
        )
        for labels, value in self._by_name["gateway_cache_requests_total"]:
            counts[labels["routeId"]][labels["result"]] += round(value)
        return [
            {**found, "route": route, "rate": f"{found['hit'] / max(1, sum(found.values())):.0%}"}
            for route, found in sorted(counts.items())
        ]


def _route(item: Mapping[str, Any], samples: _Samples) -> dict[str, Any]:
    name, count = str(item["id"]), "spring_cloud_gateway_requests_seconds_count"
    requests = samples.total(count, routeId=name)
    spent_s = samples.total("spring_cloud_gateway_requests_seconds_sum", routeId=name)
    return {
        "id": name,
        "uri": item.get("uri", ""),
        "predicates": _spelled(item.get("predicates")),
        "filters": _spelled(item.get("filters")),
        "requests": round(requests),
        "refused": round(samples.total(count, routeId=name, outcome="CLIENT_ERROR")),
        "failed": round(samples.total(count, routeId=name, outcome="SERVER_ERROR")),
        "mean_ms": f"{spent_s / requests * 1000:.1f}" if requests else "",
    }


def _spelled(tree: Any) -> str:
    """Write definitions in a line, as they were given."""
    items: Iterable[Any] = tree.values() if isinstance(tree, Mapping) else tree or ()
    return "; ".join(
        item if isinstance(item, str) else f"{item.get('name')} {dict(item.get('args') or {})}"
        for item in items
    )


def _same_origin(proceed: View) -> View:
    """Refuse a form that another site sent (RFC 6454; a browser always names the origin)."""

    @wraps(proceed)
    def checked() -> Response:
        if request.headers.get("Origin") != f"{request.scheme}://{request.host}":
            raise DeniedError("The form came from another site")
        return proceed()

    return checked


def _page(template: str, status: int = _OK, **values: object) -> Response:
    return Response(render_template(template, **values), status, mimetype="text/html")


def _elsewhere(path: str) -> Response:
    return Response(status=_SEE_OTHER, headers={"Location": path})


def _guarded(answer: Response) -> Response:
    answer.headers["Content-Security-Policy"] = _POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers["Referrer-Policy"] = "same-origin"
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer
