"""Load balancing: which instance gets a call, and how often it may be made again.

`Balancer` is all that a caller needs; it reads `spring.cloud.loadbalancer.*` as Spring does.
"""

from cloud.balancer.balancer import Balancer, Header
from cloud.balancer.settings import BROKEN, REFUSED, LoadBalancing, RetrySettings, check

__all__ = [
    "BROKEN",
    "REFUSED",
    "Balancer",
    "Header",
    "LoadBalancing",
    "RetrySettings",
    "check",
]
