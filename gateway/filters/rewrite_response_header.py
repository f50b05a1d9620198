"""RewriteResponseHeader: replaces what a Java regular expression finds in a header's values."""

from gateway.exchange import (
    Definition,
    Exchange,
    Filter,
    Handler,
    Reply,
    Tools,
    java_regex,
    java_replacement,
)
from gateway.predicates import bind


def rewrite_response_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; expression and replacement as in RewritePath."""
    name, regexp, replacement = map(str, bind(definition.args, "name", "regexp", "replacement"))
    lowered, wanted = name.lower().encode("ascii"), java_regex(regexp)
    replaced = java_replacement(replacement, wanted)

    def rewritten(value: bytes) -> bytes:
        return wanted.sub(replaced, value.decode("latin-1")).encode("latin-1")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        reply.headers = [
            (held, rewritten(value)) if held.lower() == lowered else (held, value)
            for held, value in reply.headers
        ]
        return reply

    return apply
