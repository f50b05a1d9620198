"""Circuit breakers: Resilience4j's rules behind pybreaker's interface.

A breaker counts the outcomes of the last calls. When too many failed, or were too slow, it opens:
calls are refused at once, the called service gets rest, its callers an answer. After a while it
lets a few probes through, and their outcomes decide.
"""

from pybreaker import CircuitBreakerError, CircuitBreakerListener

from cloud.breaker.directory import Breakers, follow
from cloud.breaker.machine import CircuitBreaker, NotPermittedError, Permit
from cloud.breaker.meters import flush
from cloud.breaker.settings import CircuitBreakerSettings, State

__all__ = [
    "Breakers",
    "CircuitBreaker",
    "CircuitBreakerError",
    "CircuitBreakerListener",
    "CircuitBreakerSettings",
    "NotPermittedError",
    "Permit",
    "State",
    "flush",
    "follow",
]
