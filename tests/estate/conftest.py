"""The estate with a JVM neighbour in it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

import pytest
import requests

from cloud.security import sign
from deploy.local import Estate
from deploy.local.site import HOST
from tests.estate import programs
from tests.ports import free_port

PROOF = {
    "SPRING_PROFILES_ACTIVE": "dev,late",
    # The neighbour reads what the Config Server has for this service, besides its own files.
    "SPRING_CLOUD_CONFIG_NAME": "customer-service",
    "SPRING_APPLICATION_JSON": '{"proof": {"json": "json", "nested": {"list": ["a", "b"]}}}',
    "PROOF_ENVIRONMENT": "environment",
    "PROOF_JSON": "environment",
    "PROOF_DASHEDNAME": "environment",
    "PROOF_UNDERSCORED_NAME": "environment",
    "PROOF_BY_NUMBER_0": "from the environment",
    "PROOF_ROUTES_0_ID": "from the environment",
    "PROOF_TOKEN": "a token",
    "NOZIE_CUSTOMER_SWEEPINTERVAL": "environment",
}
"""Environment of the neighbour, of which test_precedence.py asks; its files are the rest."""


@dataclass(frozen=True)
class Neighbour:
    """The JVM neighbour as it runs."""

    address: str

    def get(self, path: str, token: str = "", /, **params: str) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        with requests.Session() as session:
            session.trust_env = False
            return session.get(
                f"http://{self.address}{path}", params=params, headers=headers, timeout=20
            )


@pytest.fixture(scope="session")
def platform(estate: Estate) -> Estate:
    estate.up()
    return estate


@pytest.fixture(scope="package")
def neighbour(platform: Estate) -> Iterator[Neighbour]:
    port = free_port()
    program = programs.neighbour(platform.site, port, more=PROOF)
    with programs.beside(platform.site, program):
        yield Neighbour(f"{HOST}:{port}")


def signed(estate: Estate, *roles: str) -> str:
    """Sign a token of somebody who has no account, which no service asks for."""
    now = int(time.time())
    claims = {
        "jti": str(uuid4()), "sub": "1000000000", "username": "nobody",
        "email": "nobody@example.org", "roles": list(roles or ("USER",)), "permissions": [],
        "type": "ACCESS", "iat": now, "exp": now + 900,
    }  # fmt: skip
    return sign(claims, estate.site.secrets["jwt"])
