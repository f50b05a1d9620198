"""Every operation has a route, every route an operation, and the documents are OpenAPI."""

import re

import pytest
from openapi_spec_validator import validate

from tests.contract.houses import Houses
from tests.contract.openapi import described, document

pytestmark = pytest.mark.estate

# Management, and Flask's own.
_BESIDE = re.compile(r"/actuator|/openapi|/static|/fallback|/docs|/ops")


def _blank(template: str) -> str:
    """Names of parameters are each side's own."""
    return re.sub(r"<[^>]*>|\{[^}]*\}", "{}", template)


@pytest.mark.parametrize("house", described())
def test_the_document_is_openapi(house):
    validate(document(house).root)
    ids = [operation.id for operation in document(house).operations]
    assert len(ids) == len(set(ids)) > 0


@pytest.mark.parametrize("house", [name for name in described() if name != "gateway"])
def test_every_operation_has_a_route_and_every_route_an_operation(house, houses: Houses):
    rules = houses.app(house).url_map.iter_rules()
    routes = {
        f"{method} {_blank(rule.rule)}"
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if not _BESIDE.match(rule.rule)
    }
    documented = {f"{one.method} {_blank(one.template)}" for one in document(house).operations}
    assert routes == documented
