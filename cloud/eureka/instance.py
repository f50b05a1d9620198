"""Instances: one running process known to Eureka, as callers see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Instance:
    """Where one instance of a service can be called.

    Attributes:
        app: upper case name in Eureka.
        vips: service ids by which callers look it up, lower case.
        secure: the port speaks TLS.
        status: UP, DOWN, STARTING, OUT_OF_SERVICE or UNKNOWN.
        override: what an operator has ordered the status to be, UNKNOWN when nothing.
    """

    instance_id: str
    app: str
    vips: tuple[str, ...]
    host: str
    port: int
    secure: bool = False
    status: str = "UP"
    override: str = "UNKNOWN"
    metadata: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def url(self) -> str:
        """Return `scheme://host:port`, without a path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}"

    def dump(self) -> dict[str, Any]:
        """Write the instance for `registry.json`."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def load(cls, record: Mapping[str, Any]) -> "Instance":
        """Read what `dump` wrote."""
        return cls(**{**record, "vips": tuple(record["vips"])})

    @classmethod
    def parse(cls, record: Mapping[str, Any]) -> "Instance":
        """Read an instance as Eureka's JSON spells it (EurekaJacksonCodec).

        Raises:
            KeyError, TypeError, ValueError: a field that callers need is missing or no such thing.
        """
        ports = record.get("port"), record.get("securePort")
        plain, secure = (_port(port) for port in ports)
        # Only an enabled port may be called; an instance that offers TLS alone disables the other.
        use_secure = plain is None and secure is not None
        port = secure if use_secure else plain
        if port is None:
            raise ValueError(f"{record['instanceId']}: no port is enabled")
        names = f"{record.get('vipAddress') or ''},{record.get('secureVipAddress') or ''}"
        vips = dict.fromkeys(name.strip().lower() for name in names.split(",") if name.strip())
        metadata = dict(record.get("metadata") or {})
        metadata.pop("@class", None)
        return cls(
            instance_id=str(record["instanceId"]),
            app=str(record["app"]).upper(),
            vips=tuple(vips) or (str(record["app"]).lower(),),
            host=str(record["hostName"]),
            port=port,
            secure=use_secure,
            status=str(record["status"]),
            override=str(
                record.get("overriddenStatus") or record.get("overriddenstatus") or "UNKNOWN"
            ),
            metadata={str(key): str(value) for key, value in metadata.items()},
        )

    @classmethod
    def fixed(cls, service_id: str, uri: str, metadata: Mapping[str, str]) -> "Instance":
        """Make an instance of a fixed list, from its URI."""
        parts = urlsplit(uri)
        secure = parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        return cls(
            instance_id=f"{parts.hostname}:{service_id}:{port}",
            app=service_id.upper(),
            vips=(service_id.lower(),),
            host=parts.hostname or "",
            port=port,
            secure=secure,
            metadata=dict(metadata),
        )


def _port(record: Any) -> int | None:
    """Read `{"$": 8080, "@enabled": "true"}`; None when it is not enabled."""
    if not record or str(record.get("@enabled", "true")).lower() != "true":
        return None
    return int(record["$"])
