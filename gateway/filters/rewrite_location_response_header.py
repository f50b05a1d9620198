"""RewriteLocationResponseHeader: hides the upstream's own address in a Location."""

import re

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, java_regex
from gateway.predicates import bind

_MODES = frozenset({"NEVER_STRIP", "AS_IN_REQUEST", "ALWAYS_STRIP"})
_FIELDS = ("stripVersion", "locationHeaderName", "hostValue", "protocols")
_VERSIONED = re.compile(r"/v\d+/.*")


def rewrite_location_response_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter.

    `hostValue` takes the place of host and port, by default the client's Host does; a leading
    `/v2` of the path goes as well: always, never, or when the request's path has none.

    Raises:
        ValueError: an unknown `stripVersion`.
    """
    mode, name, host, protocols = bind(definition.args, *_FIELDS, required=0)
    mode = mode or "AS_IN_REQUEST"
    if mode not in _MODES:
        raise ValueError(f"stripVersion {mode} is none of {', '.join(sorted(_MODES))}")
    header = (name or "Location").lower().encode("ascii")
    start = rf"^((?:{protocols or 'https?|ftps?'})://)[^:/]+(?::\d+)?"
    whole, unversioned = java_regex(rf"{start}(?=/)"), java_regex(rf"{start}(?:/v\d+)?(?=/)")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        versioned = _VERSIONED.fullmatch(exchange.path) is not None
        strips = mode == "ALWAYS_STRIP" or (mode == "AS_IN_REQUEST" and not versioned)
        shown, pattern = host or exchange.host, unversioned if strips else whole
        reply = await proceed(exchange)
        if shown:
            reply.headers = [
                (
                    held,
                    pattern.sub(lambda found: found[1] + shown, value.decode("latin-1")).encode(
                        "latin-1"
                    )
                    if held.lower() == header
                    else value,
                )
                for held, value in reply.headers
            ]
        return reply

    return apply
