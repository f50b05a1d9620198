"""Typed settings of the payment service."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Self

from cloud.config import Properties
from cloud.errors import ConfigurationError

_DEVELOPMENT = frozenset({"default", "dev", "test"})


@dataclass(frozen=True, slots=True)
class Settings:
    """One line a property.

    Attributes:
        provider: `sandbox` (takes no money; development only) or `none` (payments answer 501).
        sandbox_delay: how long the sandbox takes to decide.
        reuse_window: a pending transaction of this age is offered again instead of a second one.
        claim_lease: after this long an unanswered idempotency key counts as crashed, not in flight.
        kept_for: how long answers of idempotency keys are kept.
    """

    provider: str
    sandbox_delay: timedelta
    currency: str
    reuse_window: timedelta
    claim_lease: timedelta
    kept_for: timedelta

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read the settings; the sandbox is refused outside development profiles."""
        provider = properties.text("nozie.payment.provider", "none")
        if provider not in {"sandbox", "none"}:
            raise ConfigurationError(
                f"nozie.payment.provider ({properties.origin('nozie.payment.provider')})"
                " must be sandbox or none"
            )
        profiles = set(properties.profiles) or {"default"}
        if provider == "sandbox" and not profiles <= _DEVELOPMENT:
            raise ConfigurationError(
                "nozie.payment.provider: the sandbox takes no money and is refused outside"
                " the profiles default, dev and test"
            )
        return cls(
            provider=provider,
            sandbox_delay=properties.duration(
                "nozie.payment.sandbox.delay", timedelta(milliseconds=300)
            ),
            currency=properties.text("nozie.payment.currency", "usd"),
            reuse_window=properties.duration("nozie.payment.reuse-window", timedelta(minutes=15)),
            claim_lease=properties.duration("nozie.payment.claim-lease", timedelta(seconds=60)),
            kept_for=properties.duration("nozie.payment.kept-for", timedelta(hours=48)),
        )
