"""A route's filters: one file each, under the name that Spring Cloud Gateway's YAML gives it."""

from collections.abc import Callable, Mapping

from gateway.exchange import Definition, Filter, Tools
from gateway.filters.add_request_header import add_request_header
from gateway.filters.add_request_parameter import add_request_parameter
from gateway.filters.add_response_header import add_response_header
from gateway.filters.circuit_breaker import circuit_breaker
from gateway.filters.dedupe_response_header import dedupe_response_header
from gateway.filters.prefix_path import prefix_path
from gateway.filters.preserve_host_header import preserve_host_header
from gateway.filters.redirect_to import redirect_to
from gateway.filters.remove_request_header import remove_request_header
from gateway.filters.remove_response_header import remove_response_header
from gateway.filters.request_rate_limiter import request_rate_limiter
from gateway.filters.request_size import request_size
from gateway.filters.retry import retry
from gateway.filters.rewrite_path import rewrite_path
from gateway.filters.set_path import set_path
from gateway.filters.set_request_header import set_request_header
from gateway.filters.set_response_header import set_response_header
from gateway.filters.set_status import set_status
from gateway.filters.strip_prefix import strip_prefix

FILTERS: Mapping[str, Callable[[Definition, Tools], Filter]] = {
    "AddRequestHeader": add_request_header,
    "AddRequestParameter": add_request_parameter,
    "AddResponseHeader": add_response_header,
    "CircuitBreaker": circuit_breaker,
    "DedupeResponseHeader": dedupe_response_header,
    "PrefixPath": prefix_path,
    "PreserveHostHeader": preserve_host_header,
    "RedirectTo": redirect_to,
    "RemoveRequestHeader": remove_request_header,
    "RemoveResponseHeader": remove_response_header,
    "RequestRateLimiter": request_rate_limiter,
    "RequestSize": request_size,
    "Retry": retry,
    "RewritePath": rewrite_path,
    "SetPath": set_path,
    "SetRequestHeader": set_request_header,
    "SetResponseHeader": set_response_header,
    "SetStatus": set_status,
    "StripPrefix": strip_prefix,
}


def build(definition: Definition, tools: Tools) -> Filter:
    """Build the filter that a definition names.

    Raises:
        ValueError: no such filter, or arguments that it cannot take.
    """
    factory = FILTERS.get(definition.name)
    if factory is None:
        raise ValueError(f"there is no filter {definition.name}")
    return factory(definition, tools)
