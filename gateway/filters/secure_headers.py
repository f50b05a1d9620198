"""SecureHeaders: what browsers should know about a page, unless the upstream says it itself."""

from gateway.exchange import Definition, Exchange, Filter, Handler, Reply, Tools

_POLICY = (
    "default-src 'self' https:; font-src 'self' https: data:; img-src 'self' https: data:; "
    "object-src 'none'; script-src https:; style-src 'self' https: 'unsafe-inline'"
)
# Header, the option below `filter.secure-headers` that changes it, and Spring's default.
_DEFAULTS = (
    ("X-Xss-Protection", "xss-protection-header", "1 ; mode=block"),
    ("Strict-Transport-Security", "strict-transport-security", "max-age=631138519"),
    ("X-Frame-Options", "frame-options", "DENY"),
    ("X-Content-Type-Options", "content-type-options", "nosniff"),
    ("Referrer-Policy", "referrer-policy", "no-referrer"),
    (
        "Content-Security-Policy",
        "content-security-policy",
        _POLICY,
    ),
    ("X-Download-Options", "download-options", "noopen"),
    ("X-Permitted-Cross-Domain-Policies", "permitted-cross-domain-policies", "none"),
)
_OPT_IN = ("Permissions-Policy", "permissions-policy", "")


def secure_headers(_: Definition, tools: Tools) -> Filter:
    """Build the filter; `filter.secure-headers.disable` names headers that are left out."""

    def option(name: str) -> str:
        return tools.option(f"filter.secure-headers.{name}") or ""

    def names(option_name: str) -> set[str]:
        return {name.strip().lower() for name in option(option_name).split(",")}

    disabled, enabled = names("disable"), names("enable")
    chosen = [*_DEFAULTS, *([_OPT_IN] if "permissions-policy" in enabled else ())]
    headers = [
        (header.lower().encode(), (header.encode(), (option(key) or default).encode()))
        for header, key, default in chosen
        if header.lower() not in disabled
    ]

    async def apply(exchange: Exchange, proceed: Handler) -> Reply:
        reply = await proceed(exchange)
        given = {name.lower() for name, _ in reply.headers}
        reply.headers.extend(held for lowered, held in headers if lowered not in given)
        return reply

    return apply
