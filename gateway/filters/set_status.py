"""SetStatus: the status that the client sees, whatever the upstream said."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, status_of
from gateway.predicates import bind


def set_status(definition: Definition, tools: Tools) -> Filter:
    """Build the filter; `status` is a number or a name such as BAD_REQUEST.

    The upstream's own is told in the header `set-status.original-status-header-name`, if one is
    named there.
    """
    status = status_of(str(bind(definition.args, "status")[0]))
    told = (tools.option("set-status.original-status-header-name") or "").encode("ascii")

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        if told:
            reply.headers.append((told, b"%d" % reply.status))
        reply.status = status
        return reply

    return apply
