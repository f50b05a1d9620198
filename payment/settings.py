"""Typed settings of the payment service."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Self

from cloud.config import Properties
from cloud.errors import ConfigurationError

_DEVELOPMENT = frozenset({"default", "dev", "test"})
_PREFIX = "nozie.payment"


@dataclass(frozen=True, slots=True)
class Plan:
    """A membership for a time: a price of two decimals, and how many days one payment lasts."""

    price: Decimal
    days: int


@dataclass(frozen=True, slots=True)
class StripeSettings:
    """How to reach Stripe.

    Attributes:
        secret_key: never a placeholder.
        api_base: where its API answers.
        timeout: of one attempt.
        return_url: where a redirecting payment method would send the buyer.
    """

    secret_key: str = field(repr=False)
    api_base: str
    timeout: timedelta
    retries: int
    return_url: str


@dataclass(frozen=True, slots=True)
class Settings:
    """One line a property.

    Attributes:
        provider: `stripe`, `sandbox` (takes no money; development only) or `none` (501).
        stripe: None when its keys are absent or placeholders: payments answer 501.
        webhook_secret: None when absent or a placeholder: every event is refused.
        sandbox_delay: how long the sandbox's buyer takes to confirm.
        sandbox_method: the test card that he uses.
        reuse_window: a pending transaction of this age is offered again instead of a second one.
        claim_lease: after this long an unanswered idempotency key counts as crashed, not in flight.
        kept_for: how long answers of idempotency keys, and ids of events, are kept.
        reconcile_after: a payment pending for this long is asked about.
        give_up: a payment pending for this long is canceled.
    """

    provider: str
    stripe: StripeSettings | None
    webhook_secret: str | None = field(repr=False)
    sandbox_delay: timedelta
    sandbox_method: str
    currency: str
    plans: Mapping[str, Plan]
    reuse_window: timedelta
    claim_lease: timedelta
    kept_for: timedelta
    reconcile_after: timedelta
    give_up: timedelta
    checkouts_per_address: int
    checkouts_per_user: int

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read the settings; the sandbox is refused outside development profiles."""
        provider = _provider(properties)
        return cls(
            provider=provider,
            stripe=_stripe(properties) if provider == "stripe" else None,
            webhook_secret=_secret(properties, "stripe.webhook-secret"),
            sandbox_delay=properties.duration(
                f"{_PREFIX}.sandbox.delay", timedelta(milliseconds=300)
            ),
            sandbox_method=properties.text(f"{_PREFIX}.sandbox.method", "pm_card_visa"),
            currency=properties.text(f"{_PREFIX}.currency", "usd").lower(),
            plans=_plans(properties),
            reuse_window=properties.duration(f"{_PREFIX}.reuse-window", timedelta(minutes=15)),
            claim_lease=properties.duration(f"{_PREFIX}.claim-lease", timedelta(seconds=60)),
            kept_for=properties.duration(f"{_PREFIX}.kept-for", timedelta(hours=48)),
            reconcile_after=properties.duration(
                f"{_PREFIX}.reconcile-after", timedelta(minutes=10)
            ),
            give_up=properties.duration(f"{_PREFIX}.give-up", timedelta(hours=24)),
            checkouts_per_address=properties.integer(
                f"{_PREFIX}.checkouts-per-address", 30, minimum=1
            ),
            checkouts_per_user=properties.integer(f"{_PREFIX}.checkouts-per-user", 10, minimum=1),
        )


def _provider(properties: Properties) -> str:
    key = f"{_PREFIX}.provider"
    provider = properties.text(key, "stripe")
    if provider not in {"stripe", "sandbox", "none"}:
        raise ConfigurationError(
            f"{key} ({properties.origin(key)}) must be stripe, sandbox or none"
        )
    profiles = set(properties.profiles) or {"default"}
    if provider == "sandbox" and not profiles <= _DEVELOPMENT:
        raise ConfigurationError(
            f"{key}: the sandbox takes no money and is refused outside"
            " the profiles default, dev and test"
        )
    return provider


def _secret(properties: Properties, key: str) -> str | None:
    """Read a secret; what ends in `_xxx` is a placeholder and counts as absent."""
    found = properties.text(key, "").strip()
    return None if not found or found.endswith("_xxx") else found


def _stripe(properties: Properties) -> StripeSettings | None:
    key = _secret(properties, "stripe.secret-key")
    if key is None:
        return None
    return StripeSettings(
        secret_key=key,
        api_base=properties.text("stripe.api-base", "https://api.stripe.com"),
        timeout=properties.duration("stripe.timeout", timedelta(seconds=3)),
        retries=properties.integer("stripe.retries", 1, minimum=0, maximum=5),
        return_url=properties.text("stripe.return-url", "nozie://payments"),
    )


def _plans(properties: Properties) -> Mapping[str, Plan]:
    """Read `nozie.plans.<name>.{price,length}`; a length is in whole days."""
    return {
        name: _plan(properties, f"nozie.plans.{name}")
        for name in properties.tree("nozie.plans") or {}
    }


def _plan(properties: Properties, key: str) -> Plan:
    try:
        price = Decimal(properties.text(f"{key}.price")).quantize(Decimal("0.01"))
    except InvalidOperation:
        price = Decimal(0)
    length = properties.duration(f"{key}.length")
    if price <= 0 or length < timedelta(days=1):
        raise ConfigurationError(
            f"{key} ({properties.origin(f'{key}.price')})"
            " needs a price above 0 and a length of at least 1d"
        )
    return Plan(price, length.days)
