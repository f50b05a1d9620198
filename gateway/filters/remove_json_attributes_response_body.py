"""RemoveJsonAttributesResponseBody: takes attributes out of JSON before the client sees them."""

import json
from collections.abc import Collection
from typing import Any

from cloud.errors import UpstreamError
from gateway.body import read
from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools
from gateway.predicates import gather

_MOST = 1024 * 1024
_JSON = (b"application/json",)


def remove_json_attributes_response_body(definition: Definition, _: Tools) -> Filter:
    """Build the filter; a last argument `true` also looks below the outermost object.

    What should be hidden is never passed on unread: an answer that is encoded, larger than 1 MiB
    or no JSON though it says so is a 502.

    Raises:
        ValueError: no attribute is named.
    """
    names = gather(definition.args, "fieldList")
    deep = str(definition.args.get("deleteRecursively", "false")).lower() == "true"
    if names and names[-1].lower() in {"true", "false"}:
        deep = names.pop().lower() == "true"
    if not names:
        raise ValueError("needs the names of attributes")
    wanted = frozenset(names)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        # What a service compresses could not be looked into.
        exchange.headers = [held for held in exchange.headers if held[0] != b"accept-encoding"]
        reply = await proceed(exchange)
        told = {name.lower(): value for name, value in reply.headers}
        if reply.body == b"" or not told.get(b"content-type", b"").lower().startswith(_JSON):
            return reply
        if exchange.method == "HEAD":
            reply.length = None  # of another body than the one a GET gives
            return reply
        body = await read(reply.body, _MOST)
        if not isinstance(body, bytes) or told.get(b"content-encoding", b"identity") != b"identity":
            reply.discard()
            raise UpstreamError("answer cannot be looked into")
        reply.body = _without(body, wanted, deep=deep)
        return reply

    return apply


def _without(body: bytes, names: Collection[str], *, deep: bool) -> bytes:
    if not body:
        return body
    try:
        found = _cleaned(json.loads(body), names, deep=deep)
    except (ValueError, RecursionError) as error:
        raise UpstreamError("answer is no JSON") from error
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _cleaned(node: Any, names: Collection[str], *, deep: bool) -> Any:
    if isinstance(node, dict):
        kept = {name: value for name, value in node.items() if name not in names}
        if not deep:
            return kept
        return {name: _cleaned(value, names, deep=True) for name, value in kept.items()}
    if isinstance(node, list) and deep:
        return [_cleaned(item, names, deep=True) for item in node]
    return node
