"""A route's filters: one file each, under the name that Spring Cloud Gateway's YAML gives it."""

from collections.abc import Callable, Mapping

from gateway.exchange import Definition, Filter, Tools
from gateway.filters.add_request_header import add_request_header
from gateway.filters.add_request_headers_if_not_present import add_request_headers_if_not_present
from gateway.filters.add_request_parameter import add_request_parameter
from gateway.filters.add_response_header import add_response_header
from gateway.filters.circuit_breaker import circuit_breaker
from gateway.filters.dedupe_response_header import dedupe_response_header
from gateway.filters.fallback_headers import fallback_headers
from gateway.filters.local_response_cache import local_response_cache
from gateway.filters.map_request_header import map_request_header
from gateway.filters.metadata_cache import metadata_cache
from gateway.filters.prefix_path import prefix_path
from gateway.filters.preserve_host_header import preserve_host_header
from gateway.filters.redirect_to import redirect_to
from gateway.filters.remove_json_attributes_response_body import (
    remove_json_attributes_response_body,
)
from gateway.filters.remove_request_header import remove_request_header
from gateway.filters.remove_request_parameter import remove_request_parameter
from gateway.filters.remove_response_header import remove_response_header
from gateway.filters.request_header_size import request_header_size
from gateway.filters.request_rate_limiter import request_rate_limiter
from gateway.filters.request_size import request_size
from gateway.filters.retry import retry
from gateway.filters.rewrite_location_response_header import rewrite_location_response_header
from gateway.filters.rewrite_path import rewrite_path
from gateway.filters.rewrite_request_parameter import rewrite_request_parameter
from gateway.filters.rewrite_response_header import rewrite_response_header
from gateway.filters.save_session import save_session
from gateway.filters.secure_headers import secure_headers
from gateway.filters.set_path import set_path
from gateway.filters.set_request_header import set_request_header
from gateway.filters.set_request_host_header import set_request_host_header
from gateway.filters.set_response_header import set_response_header
from gateway.filters.set_status import set_status
from gateway.filters.strip_prefix import strip_prefix
from gateway.filters.token_relay import token_relay

FILTERS: Mapping[str, Callable[[Definition, Tools], Filter]] = {
    "AddRequestHeader": add_request_header,
    "AddRequestHeadersIfNotPresent": add_request_headers_if_not_present,
    "AddRequestParameter": add_request_parameter,
    "AddResponseHeader": add_response_header,
    "CircuitBreaker": circuit_breaker,
    "DedupeResponseHeader": dedupe_response_header,
    "FallbackHeaders": fallback_headers,
    "LocalResponseCache": local_response_cache,
    "MapRequestHeader": map_request_header,
    "MetadataCache": metadata_cache,
    "PrefixPath": prefix_path,
    "PreserveHostHeader": preserve_host_header,
    "RedirectTo": redirect_to,
    "RemoveJsonAttributesResponseBody": remove_json_attributes_response_body,
    "RemoveRequestHeader": remove_request_header,
    "RemoveRequestParameter": remove_request_parameter,
    "RemoveResponseHeader": remove_response_header,
    "RequestHeaderSize": request_header_size,
    "RequestRateLimiter": request_rate_limiter,
    "RequestSize": request_size,
    "Retry": retry,
    "RewriteLocationResponseHeader": rewrite_location_response_header,
    "RewritePath": rewrite_path,
    "RewriteRequestParameter": rewrite_request_parameter,
    "RewriteResponseHeader": rewrite_response_header,
    "SaveSession": save_session,
    "SecureHeaders": secure_headers,
    "SetPath": set_path,
    "SetRequestHeader": set_request_header,
    "SetRequestHostHeader": set_request_host_header,
    "SetResponseHeader": set_response_header,
    "SetStatus": set_status,
    "StripPrefix": strip_prefix,
    "TokenRelay": token_relay,
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
