from datetime import timedelta
from decimal import Decimal

import pytest

from cloud.errors import ConfigurationError
from cloud.testing import properties
from payment.settings import Plan, Settings
from payment.store import Sandbox

SANDBOX = {"nozie.payment.provider": "sandbox"}


def settings(values, profile="test"):
    return Settings.of(properties("payment-service", values, profile))


def test_without_any_setting_nothing_can_be_paid():
    found = settings({})
    assert (found.provider, found.stripe, found.webhook_secret) == ("stripe", None, None)


def test_a_plan_has_a_price_and_a_length():
    found = settings({"nozie.plans.vip.price": "5", "nozie.plans.vip.length": "30d"})
    assert found.plans == {"vip": Plan(Decimal("5.00"), 30)}


@pytest.mark.parametrize(
    ("values", "profile", "fault"),
    [
        pytest.param(SANDBOX, "prod", "takes no money", id="the sandbox in production"),
        pytest.param(SANDBOX, "staging", "takes no money", id="the sandbox in staging"),
        pytest.param({"nozie.payment.provider": "paypal"}, "dev", "must be", id="unknown provider"),
        pytest.param(
            {"nozie.plans.vip.price": "-1", "nozie.plans.vip.length": "30d"},
            "dev",
            "price above 0",
            id="a plan for nothing",
        ),
        pytest.param(
            {"nozie.plans.vip.price": "much", "nozie.plans.vip.length": "30d"},
            "dev",
            "price above 0",
            id="a price that is none",
        ),
        pytest.param({"nozie.plans.vip.price": "5"}, "dev", "length", id="a plan without length"),
        pytest.param(
            {"nozie.plans.vip.price": "5", "nozie.plans.vip.length": "3h"},
            "dev",
            "at least 1d",
            id="a plan of hours",
        ),
    ],
)
def test_what_cannot_be_used_stops_the_start(values, profile, fault):
    with pytest.raises(ConfigurationError, match=fault):
        settings(values, profile)


def test_a_card_that_the_sandbox_does_not_know_stops_the_start():
    with pytest.raises(ConfigurationError, match=r"sandbox\.method"):
        Sandbox(None, timedelta(0), "pm_card_unknown")  # type: ignore[arg-type]


def test_secrets_do_not_show():
    shown = repr(
        settings({"stripe.secret-key": "sk_test_hidden1", "stripe.webhook-secret": "whsec_hidden2"})
    )
    assert "hidden" not in shown
