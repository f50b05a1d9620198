"""Arrangements: the instances of a service in the order of their turns, made once a registry."""

import random
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from math import gcd

from cloud.balancer import versions
from cloud.balancer.settings import API_VERSION, SUBSET, WEIGHTED, ZONE, LoadBalancing
from cloud.eureka import Instance

Ring = tuple[Instance, ...]
Tiers = tuple[Ring, ...]
"""Rings, the preferred one first."""

_LONGEST_RING = 1000


def arrange(instances: Sequence[Instance], settings: LoadBalancing) -> Mapping[str, Tiers]:
    """Arrange all instances (under the name "") and those of each hint, or of each version.

    Metadata decides, by Spring's keys: `hint`, `API_VERSION`, `weight`, `zone`.
    """
    if settings.strategy == SUBSET:
        instances = _subset(instances, *settings.subset)
    groups = defaultdict(list)
    for instance in instances:
        if settings.strategy == API_VERSION:
            name = versions.parse(instance.metadata.get("API_VERSION", ""))
        else:
            name = instance.metadata.get("hint", "")
        groups[name].append(instance)
    return {name: _tiers(those, settings) for name, those in {**groups, "": instances}.items()}


def _subset(instances: Sequence[Instance], who: str, size: int) -> Sequence[Instance]:
    """Choose as many instances for this caller that all callers together burden all alike.

    Deterministic subsetting ("Site Reliability Engineering", chapter 20): callers of one round
    share out one shuffled list, each takes another piece of it.
    """
    pieces = len(instances) // size
    if pieces <= 1:
        return instances
    number = zlib.crc32(who.encode())
    turn, piece = divmod(number, pieces)
    shuffled = sorted(instances, key=lambda instance: instance.instance_id)
    random.Random(turn).shuffle(shuffled)  # noqa: S311 - everybody is to draw the same
    return shuffled[piece * size : (piece + 1) * size]


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
