"""RewritePath: replaces what a Java regular expression finds in the path."""

from dataclasses import replace

from gateway.exchange import (
    Definition,
    Exchange,
    Filter,
    Handler,
    Reply,
    Tools,
    decoded,
    java_regex,
    java_replacement,
)
from gateway.predicates import bind


def rewrite_path(definition: Definition, _: Tools) -> Filter:
    r"""Build the filter.

    `regexp` may name groups `(?<n>…)`, `replacement` refers to them as `${n}` or `$1`; YAML
    spells `$` as `$\\`, lest Spring takes it for a placeholder.
    """
    regexp, replacement = bind(definition.args, "regexp", "replacement")
    wanted = java_regex(str(regexp))
    replaced = java_replacement(str(replacement), wanted)

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        raw = wanted.sub(replaced, exchange.raw_path)
        return await proceed(replace(exchange, raw_path=raw, path=decoded(raw)))

    return apply
