"""POST /actuator/busrefresh and /actuator/busenv: Spring Cloud Bus's endpoints."""

from collections.abc import Mapping
from functools import partial

from flask import Blueprint, Response

from cloud.actuator.answers import done
from cloud.actuator.refresh import setting, told
from cloud.bus import events, is_enabled
from cloud.bus.events import Event
from cloud.config import Environment
from cloud.errors import UnavailableError
from cloud.peers import peers
from cloud.refresh import refresher

_LIMIT_S = 5.0


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoints where `spring.cloud.bus.enabled` is true."""
    properties = environment.properties
    if not is_enabled(properties):
        return {}
    desk = _Desk(environment)
    links: dict[str, str] = {}
    for name, answer in (("busrefresh", desk.refresh), ("busenv", desk.manage)):
        switch = f"spring.cloud.bus.{name.removeprefix('bus')}.enabled"
        if properties.boolean(switch, default=True):
            rooms.post(f"/{name}", endpoint=name)(answer)
            rooms.post(f"/{name}/<path:destination>", endpoint=f"{name}-destinations")(answer)
            links |= {name: f"/{name}", f"{name}-destinations": f"/{name}/{{*destinations}}"}
    return links


class _Desk:
    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._refresher = refresher(environment)
        self._peers = peers(environment)

    def refresh(self, destination: str | None = None) -> Response:
        """Answer 204 when this instance, if meant, has refreshed and the bus has the event."""
        return told(partial(self._refresh, _joined(destination)))

    def manage(self, destination: str | None = None) -> Response:
        """Set `{"name", "value"}` here, if this instance is meant, and tell the others; 204."""
        name, text = setting()
        return told(partial(self._manage, _joined(destination), name, text))

    def _refresh(self, destination: str) -> Response:
        event = self._event(events.REFRESH, destination)
        if self._is_meant(event):
            self._refresher.refresh()
        return self._send(event)

    def _manage(self, destination: str, name: str, value: str) -> Response:
        event = self._event(events.ENVIRONMENT, destination, values={name: value})
        if self._is_meant(event):
            self._refresher.manage({name: value})
        return self._send(event)

    def _event(self, kind: str, destination: str, **more: object) -> Event:
        return Event.new(kind, events.bus_id(self._environment.properties), destination, **more)

    def _is_meant(self, event: Event) -> bool:
        names = self._environment.properties.listing("spring.cloud.config.name")
        return events.is_meant(event.destination, event.origin, names)

    def _send(self, event: Event) -> Response:
        """Have the instance's member of the bus say it."""
        replies = self._peers.ask("bus", event.dump().decode(), limit_s=_LIMIT_S)
        if not replies or replies[0].error is not None:
            reason = replies[0].error if replies else "no process of this instance is on the bus"
            raise UnavailableError(f"The other members were not told: {reason}")
        return done()


def _joined(path: str | None) -> str:
    """Read `svc/profile` and `svc:profile` alike; without a destination all are meant."""
    return events.destination_of(path.replace("/", ":") if path else None)
