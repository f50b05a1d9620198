"""Whatever is sent: a declared status with a reason, never a 5xx, never HTML or a traceback."""

import re
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from cloud.testing import bearer
from tests.contract.client import CheckedClient
from tests.contract.houses import BUILT, Houses
from tests.contract.openapi import Document, Operation, described, document
from tests.contract.requests import Sent, bad_requests, plausible

pytestmark = [pytest.mark.estate, pytest.mark.timeout(90)]

_BOUNDED = settings(
    derandomize=True,  # the same requests in every run
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
_LONG: Final[Sent] = {
    "data": b'{"x":"' + b"x" * 2**21 + b'"}',
    "content_type": "application/json",
}
_METHODS: Final = ("PATCH", "PUT", "DELETE", "POST")
SERVICES: Final = [name for name in described() if name != "gateway"]


@pytest.mark.parametrize("house", SERVICES)
def test_a_bad_request_is_the_callers_fault(house, houses: Houses):
    client = houses.client(house, holds_requests=False)
    known = document(house)
    failed = [
        fault
        for operation in known.operations
        if (fault := _fault_of(client, operation, house)) is not None
    ]
    assert not failed, "\n\n".join(failed)


def _fault_of(client: CheckedClient, operation: Operation, house: str) -> str | None:
    """Send a bounded number of bad requests to one operation; tell of the first that went wrong."""
    faults: list[str] = []

    @settings(_BOUNDED, max_examples=60 if "requestBody" in operation.node else 20)
    @given(bad_requests(document(house), operation, BUILT[house].samples or {}))
    def attack(request: Sent) -> None:
        if faults:
            return
        try:
            answer = client.open(**request)
            assert answer.status_code < 500, answer.get_data(as_text=True)
        except Exception as error:  # noqa: BLE001 - told, not raised: a repeat meets other data
            shown = {name: value for name, value in request.items() if name != "headers"}
            faults.append(f"{operation.id}: {str(shown)[:800]}\n  {error!r}"[:2000])

    attack()
    return faults[0] if faults else None


@pytest.mark.parametrize("house", SERVICES)
def test_the_door_is_the_same_for_every_operation(house, houses: Houses):
    client, known = houses.client(house), document(house)
    assert client.get("/api/no/such/path").status_code == 404
    for operation in known.operations:
        path = re.sub(r"\{[^}]*\}", "1", operation.template)
        unknown = next(name for name in _METHODS if known.find(name, path) is None)
        assert client.open(path, method=unknown).status_code == 405, operation.id
        if "requestBody" in operation.node:
            answer = client.open(path, method=operation.method, headers=bearer(1, "ADMIN"), **_LONG)
            assert answer.status_code == 413, operation.id
        if needs_token(known, operation):
            body = {"json": plausible(known, operation)} if "requestBody" in operation.node else {}
            answer = client.open(path, method=operation.method, **body)
            assert answer.status_code == 401, operation.id


def needs_token(known: Document, operation: Operation) -> bool:
    """Tell whether the document lets nobody in without a token."""
    security = operation.node.get("security", known.root.get("security", []))
    return bool(security) and {} not in list(security or ())
