"""RewritePath: replaces what a Java regular expression finds in the path."""

import re
from dataclasses import replace

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools, decoded
from gateway.predicates import bind


def rewrite_path(definition: Definition, _: Tools) -> Filter:
    r"""Build the filter.

    `regexp` may name groups `(?<n>…)`, `replacement` refers to them as `${n}` or `$1`; YAML
    spells `$` as `$\\`, lest Spring takes it for a placeholder.
    """
    regexp, replacement = bind(definition.args, "regexp", "replacement")
    wanted = re.compile(re.sub(r"\(\?<(?![=!])", "(?P<", str(regexp)))
    template = re.sub(
        r"\$\{(\w+)\}|\$(\d+)",
        lambda found: rf"\g<{found[1] or found[2]}>",
        str(replacement).replace("$\\", "$"),
    )

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        raw = wanted.sub(template, exchange.raw_path)
        return await proceed(replace(exchange, raw_path=raw, path=decoded(raw)))

    return apply
