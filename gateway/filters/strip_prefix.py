"""StripPrefix: same name, argument and result as Spring Cloud Gateway's filter."""

from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, decoded
from gateway.predicates import bind


def strip_prefix(definition: Definition, _: Tools) -> Filter:
    """Build the filter; `parts` is how many leading path segments to drop."""
    parts = int(bind(definition.args, "parts", required=0)[0] or 1)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        # Split before decoding: `%2F` inside a segment would be data, not a separator.
        kept = [segment for segment in exchange.raw_path.split("/") if segment][parts:]
        slash = "/" if kept and exchange.raw_path.endswith("/") else ""
        raw = f"/{'/'.join(kept)}{slash}"
        return await proceed(replace(exchange, raw_path=raw, path=decoded(raw)))

    return apply
