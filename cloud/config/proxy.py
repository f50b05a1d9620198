"""The proxy that stands between us and Eureka (`eureka.client.proxy-*`)."""

import base64
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote

from cloud.config.properties import Properties

_PROXY = "eureka.client.proxy"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy (RFC 9110, section 3.7); https addresses are reached by CONNECT."""

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, properties: Properties) -> Self | None:
        """Read the settings, None when no host is set.

        Raises:
            ConfigurationError: the port is none.
        """
        host = properties.text(f"{_PROXY}-host", "")
        if not host:
            return None
        return cls(
            host=host,
            port=properties.integer(f"{_PROXY}-port", 80, minimum=1, maximum=65535),
            user=properties.text(f"{_PROXY}-user-name", ""),
            password=properties.text(f"{_PROXY}-password", ""),
        )

    @property
    def url(self) -> str:
        """Return its address with what it asks for: a secret."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"http://{login}{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """Return what it is shown (RFC 7617): a secret."""
        if not self.user:
            return {}
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {login}"}
