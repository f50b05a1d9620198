"""DedupeResponseHeader: one value where upstream and gateway both wrote one."""

from collections.abc import Callable, Mapping

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools
from gateway.predicates import bind

_STRATEGIES: Mapping[str, Callable[[list[bytes]], list[bytes]]] = {
    "RETAIN_FIRST": lambda values: values[:1],
    "RETAIN_LAST": lambda values: values[-1:],
    "RETAIN_UNIQUE": lambda values: list(dict.fromkeys(values)),
}


def dedupe_response_header(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `name` holds header names separated by blanks."""
    names, strategy = bind(definition.args, "name", "strategy", required=1)
    wanted = {name.lower().encode("ascii") for name in str(names).split()}
    retain = _STRATEGIES[strategy or "RETAIN_FIRST"]

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        kept = [held for held in reply.headers if held[0].lower() not in wanted]
        for name in wanted:
            found = [held for held in reply.headers if held[0].lower() == name]
            kept += [(found[0][0], value) for value in retain([value for _, value in found])]
        reply.headers = kept
        return reply

    return apply
