"""Arrangements: the instances of a service in the order of their turns, made once a registry."""

from collections.abc import Mapping, Sequence
from functools import reduce
from math import gcd

from cloud.balancer.settings import WEIGHTED, ZONE, LoadBalancing
from cloud.eureka import Instance

Ring = tuple[Instance, ...]
Tiers = tuple[Ring, ...]
"""Rings, the preferred one first."""

_LONGEST_RING = 1000


def arrange(instances: Sequence[Instance], settings: LoadBalancing) -> Mapping[str, Tiers]:
    """Arrange all instances (under the name "") and those of each hint.

    Metadata decides, by Spring's keys: `hint`, `weight`, `zone`.
    """
    hints = {instance.metadata.get("hint", "") for instance in instances}
    groups = {
        hint: tuple(instance for instance in instances if instance.metadata.get("hint") == hint)
        for hint in hints - {""}
    }
    return {hint: _tiers(those, settings) for hint, those in {**groups, "": instances}.items()}


def _tiers(instances: Sequence[Instance], settings: LoadBalancing) -> Tiers:
    if settings.strategy == WEIGHTED:
        return (_weighted(instances),)
    near: Ring = ()
    if settings.strategy == ZONE and settings.zone:
        own = settings.zone.lower()
        near = tuple(one for one in instances if one.metadata.get("zone", "").lower() == own)
    return (near, tuple(instances)) if near else (tuple(instances),)


def _weighted(instances: Sequence[Instance]) -> Ring:
    """Give each instance as many turns a round as it weighs, spread over the round.

    Weights 3 and 1 make a, b, a, a: as Spring's WeightedServiceInstanceListSupplier, each pass
    takes everyone who has turns left, after all weights were divided by what divides them all.
    """
    weights = [_weight(instance) for instance in instances]
    common = reduce(gcd, weights, 0) or 1
    # A ring of millions would only be memory: beyond a thousand turns shares are rounded.
    scale = max(common, sum(weights) / _LONGEST_RING)
    turns = [max(1, round(weight / scale)) for weight in weights]
    return tuple(
        instance
        for passed in range(max(turns, default=0))
        for instance, left in zip(instances, turns, strict=True)
        if left > passed
    )


def _weight(instance: Instance) -> int:
    """Read the weight; what is no positive number counts as one, as in Spring."""
    try:
        return max(1, int(instance.metadata.get("weight", "1")))
    except ValueError:
        return 1
