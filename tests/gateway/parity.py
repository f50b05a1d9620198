"""What both gateways are asked: routes as Spring's reference spells them, a request for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.gateway.conftest import bearer

ADMIN = bearer(7, "ADMIN")


@dataclass(frozen=True)
class Case:
    """One route and one request for it.

    Attributes:
        more: further routes that the case needs, with predicates of their own.
        answer: what the upstream says: status, headers, body.
        calls: how often it is asked, when that is not once or never alike.
        differs: why ours does something else on purpose; then `ours` and `theirs` tell what:
            the status, and the target at the upstream (None: it is not asked).
    """

    name: str
    predicates: Sequence[Any] = ("Path=/**",)
    filters: Sequence[Any] = ()
    target: str = "/red/blue"
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    answer: tuple[int, Mapping[str, str], str] = (200, {}, "ok")
    more: Sequence[Mapping[str, Any]] = ()
    uri: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    order: int = 0
    differs: str = ""
    ours: tuple[int, str | None] = (0, None)
    theirs: tuple[int, str | None] = (0, None)


def _long(name: str, /, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args}


def _path(*patterns: str) -> tuple[str]:
    return (f"Path={','.join(patterns)}",)


def _found(name: str, predicate: Any, target: str = "/red/blue", **more: Any) -> Case:
    return Case(name, ("Path=/**", predicate), target=target, **more)


_AMBIGUOUS = "a path that two programs may read in two ways is refused before any route"
_OLD, _NEW = "2017-01-20T17:42:47.789-07:00[America/Denver]", "2037-01-20T17:42:47.789+01:00"
_REWRITE = "RewritePath=/red/?(?<segment>.*), /$\\{segment}"

PREDICATES = [
    _found("after holds", f"After={_OLD}"),
    _found("after does not hold", f"After={_NEW}"),
    _found("before holds", f"Before={_NEW}"),
    _found("before does not hold", "Before=1484930567789"),
    _found("between holds", f"Between={_OLD}, {_NEW}"),
    _found("cookie holds", "Cookie=chocolate, ch.p", headers={"Cookie": "a=b; chocolate=chip"}),
    _found(
        "cookie with another value", "Cookie=chocolate, ch.p", headers={"Cookie": "chocolate=x"}
    ),
    _found("cookie absent", "Cookie=chocolate, ch.p"),
    _found("header holds", "Header=X-Request-Id, \\d+", headers={"X-Request-Id": "1234"}),
    _found("header only begins so", "Header=X-Request-Id, \\d+", headers={"X-Request-Id": "1a"}),
    _found("header present", "Header=X-Request-Id", headers={"X-Request-Id": "any"}),
    _found(
        "host holds",
        "Host=**.somehost.org,**.anotherhost.org",
        headers={"Host": "www.anotherhost.org"},
    ),
    _found("host of two labels", "Host=**.somehost.org", headers={"Host": "a.b.somehost.org"}),
    _found("host that only ends so", "Host=**.somehost.org", headers={"Host": "evilsomehost.org"}),
    _found("host, port beside", "Host=**.somehost.org", headers={"Host": "a.somehost.org:8080"}),
    _found("host in the long form", _long("Host", any="**.a.org"), headers={"Host": "x.a.org"}),
    _found(
        "host with a port", "Host=**.somehost.org:8080", headers={"Host": "a.somehost.org:8080"}
    ),
    Case(
        "host gives a variable",
        ("Host={sub}.myhost.org",),
        ("AddRequestHeader=X-Sub, is-{sub}",),
        headers={"Host": "www.myhost.org"},
    ),
    _found("method holds", "Method=GET,POST", method="POST", body=b"x"),
    _found("method does not hold", "Method=GET,POST", method="PUT", body=b"x"),
    _found("query present", "Query=green", "/x?green=1"),
    _found("query empty", "Query=green", "/x?green"),
    _found("query longer name", "Query=green", "/x?greener=1"),
    _found("query matches", "Query=red, gree.", "/x?red=green"),
    _found("query does not match", "Query=red, gree.", "/x?red=greet1"),
    _found("remote address holds", "RemoteAddr=127.0.0.1/24"),
    _found("remote address does not hold", "RemoteAddr=192.168.1.1/24"),
    _found(
        "remote address in the long form", _long("RemoteAddr", first="10.0.0.0/8", b="127.0.0.1/8")
    ),
    _found("method in the long form", _long("Method", any="GET")),
    _found("weight of one", "Weight=alone, 8"),
    Case(
        "weight none",
        ("Path=/**", "Weight=pair, 0"),
        more=[{"predicates": ["Path=/**", "Weight=pair, 1"], "filters": ["PrefixPath=/other"]}],
    ),
    Case("path with a segment", _path("/red/{segment}", "/blue/{segment}"), target="/blue/green"),
    Case("path with a slash at its end", _path("/red/{segment}"), target="/red/1/"),
    Case("path, slash at its end, counted", ("Path=/red/{segment},false",), target="/red/1/"),
    Case("path with a segment too many", _path("/red/{segment}"), target="/red/1/2"),
    Case("path with a star", _path("/a/*/c"), target="/a/b/c"),
    Case("path with a star for two", _path("/a/*/c"), target="/a/b/b/c"),
    Case("path with a rest", _path("/files/{*rest}"), ("SetPath=/got{rest}",), "/files/a/b"),
    Case("path with an expression", _path("/n/{id:\\d+}"), ("SetPath=/number/{id}",), "/n/42"),
    Case("path with an expression not met", _path("/n/{id:\\d+}"), target="/n/x"),
    Case("path with one letter open", _path("/a?c"), target="/abc"),
    Case("path below", _path("/api/movies/**"), target="/api/movies/1/2"),
    Case("path below, itself", _path("/api/movies/**"), target="/api/movies"),
    Case("path below, a longer name", _path("/api/movies/**"), target="/api/moviesx"),
    Case("path in another case", _path("/api/movies/**"), target="/API/movies"),
    Case("path encoded is matched decoded", _path("/a b/**"), target="/a%20b/c%C3%A9"),
    Case("path in the long form", (_long("Path", patterns="/long/**"),), target="/long/1"),
    Case(
        "both hold", ("Path=/p/**", "Method=GET", "Header=X-A"), target="/p/1", headers={"X-A": "1"}
    ),
    Case("one of both does not", ("Path=/p/**", "Header=X-A"), target="/p/1"),
    Case(
        "order goes before position",
        ("Path=/**",),
        ("PrefixPath=/second",),
        order=2,
        more=[{"predicates": ["Path=/**"], "filters": ["PrefixPath=/first"], "order": 1}],
    ),
    Case(
        "position decides without order",
        ("Path=/**",),
        ("PrefixPath=/first",),
        more=[{"predicates": ["Path=/**"], "filters": ["PrefixPath=/second"]}],
    ),
]

REQUESTS = [
    Case("add request header", filters=["AddRequestHeader=X-Request-red, blue"]),
    Case(
        "add request header to another", filters=["AddRequestHeader=X-A, b"], headers={"X-A": "a"}
    ),
    Case(
        "add request header with a variable",
        _path("/red/{segment}"),
        ["AddRequestHeader=X-Request-Red, Blue-{segment}"],
    ),
    Case(
        "add headers if not present",
        filters=["AddRequestHeadersIfNotPresent=X-Color-1:blue,X-Color-2:green"],
        headers={"X-Color-1": "mine"},
    ),
    Case(
        "set request header",
        _path("/red/{s}"),
        ["SetRequestHeader=X-A, v-{s}"],
        headers={"X-A": "a"},
    ),
    Case(
        "remove request header",
        filters=["RemoveRequestHeader=X-Request-Foo"],
        headers={"X-Request-Foo": "a", "X-Kept": "b"},
    ),
    Case(
        "map request header",
        filters=["MapRequestHeader=Blue, X-Request-Red"],
        headers={"Blue": "1"},
    ),
    Case("map an absent header", filters=["MapRequestHeader=Blue, X-Request-Red"]),
    Case(
        "map beside another",
        filters=["MapRequestHeader=Blue, X-Red"],
        headers={"Blue": "1", "X-Red": "2"},
    ),
    Case("add request parameter", filters=["AddRequestParameter=red, blue"], target="/x?a=1"),
    Case("add the only parameter", filters=["AddRequestParameter=red, blue"], target="/x"),
    Case(
        "add parameter with a variable",
        ("Host={segment}.myhost.org",),
        ["AddRequestParameter=foo, bar-{segment}"],
        headers={"Host": "a.myhost.org"},
    ),
    Case(
        "remove request parameter",
        filters=["RemoveRequestParameter=red"],
        target="/x?red=1&a=2&red=3",
    ),
    Case("remove the only parameter", filters=["RemoveRequestParameter=red"], target="/x?red=1"),
    Case("remove an absent parameter", filters=["RemoveRequestParameter=red"], target="/x?a=b%20c"),
    Case(
        "rewrite request parameter",
        filters=["RewriteRequestParameter=campaign,fall2023"],
        target="/products?category=shoes&campaign=old",
    ),
    Case(
        "rewrite an absent parameter",
        filters=["RewriteRequestParameter=campaign,x"],
        target="/products?category=shoes",
    ),
    Case("prefix path", filters=["PrefixPath=/mypath"], target="/hello"),
    Case("prefix path keeps encoding", filters=["PrefixPath=/mypath"], target="/a%20b?c=%2F"),
    Case("strip prefix", filters=["StripPrefix=2"], target="/name/blue/red"),
    Case("strip prefix, one", filters=["StripPrefix=1"], target="/name/blue/red?q=1"),
    Case("strip prefix, all", filters=["StripPrefix=3"], target="/a/b"),
    Case("strip prefix, slash at the end", filters=["StripPrefix=1"], target="/a/b/"),
    Case("strip prefix keeps encoding", filters=["StripPrefix=1"], target="/a/b%20c"),
    Case("set path", _path("/red/{segment}"), ["SetPath=/{segment}"]),
    Case("set path keeps the query", _path("/red/{segment}"), ["SetPath=/{segment}"], "/red/1?a=b"),
    Case("set path encodes", _path("/red/{segment}"), ["SetPath=/x/{segment}"], "/red/a%20b"),
    Case("rewrite path", _path("/red/**"), [_REWRITE]),
    Case("rewrite path to the root", _path("/red/**"), [_REWRITE], "/red"),
    Case("rewrite path keeps encoding", _path("/red/**"), [_REWRITE], "/red/a%20b?x=%20"),
    Case("rewrite path by number", filters=["RewritePath=/a/(\\d+), /b/$1"], target="/a/7"),
    Case("rewrite path, nothing found", filters=["RewritePath=/nothing, /x"], target="/red"),
    Case(
        "rewrite path in the long form",
        filters=[_long("RewritePath", regexp="/v1/(?<rest>.*)", replacement="/v2/${rest}")],
        target="/v1/a/b",
    ),
    Case("two filters, in order", filters=["StripPrefix=1", "PrefixPath=/y"], target="/x/z"),
    Case("two filters, the other way", filters=["PrefixPath=/y", "StripPrefix=1"], target="/x/z"),
    Case(
        "preserve host header", filters=["PreserveHostHeader"], headers={"Host": "client.example"}
    ),
    Case("host is the target's", headers={"Host": "client.example"}),
    Case("set request host header", filters=["SetRequestHostHeader=example.org"]),
    Case(
        "request size within",
        filters=[_long("RequestSize", maxSize=10)],
        method="POST",
        body=b"x" * 10,
    ),
    Case(
        "request size over",
        filters=[_long("RequestSize", maxSize=10)],
        method="POST",
        body=b"x" * 11,
    ),
    Case(
        "request header size within", filters=["RequestHeaderSize=100B"], headers={"X-A": "a" * 20}
    ),
    Case(
        "request header size over", filters=["RequestHeaderSize=100B"], headers={"X-A": "a" * 101}
    ),
    Case(
        "request header size, told elsewhere",
        filters=[_long("RequestHeaderSize", maxSize="10B", errorHeaderName="X-Large")],
        headers={"X-A": "a" * 101},
    ),
    Case("save session", filters=["SaveSession"]),
    Case("fallback headers without a failure", filters=["FallbackHeaders"]),
    Case(
        "a body passes",
        method="POST",
        body=b'{"a": 1}',
        headers={"Content-Type": "application/json"},
    ),
    Case(
        "a patch passes", method="PATCH", body=b"{}", headers={"Content-Type": "application/json"}
    ),
    Case("a head passes", method="HEAD"),
    Case("a delete passes", method="DELETE"),
    Case("options without origin pass", method="OPTIONS"),
    Case("query passes untouched", target="/x?a=1&a=2&b=%2F%20&c="),
    Case(
        "hop-by-hop headers end here",
        headers={
            "Keep-Alive": "1",
            "TE": "trailers",
            "Proxy-Authorization": "x",
            "X-Application-Context": "y",
        },
    ),
    Case(
        "headers named in Connection end here",
        headers={"Connection": "X-Private", "X-Private": "1"},
        differs="Spring 4.1 lets a header through that Connection names; RFC 9110 section 7.6.1",
        ours=(200, "/red/blue"),
        theirs=(200, "/red/blue"),
    ),
    Case(
        "a semicolon",
        target="/red/a;x=1",
        differs=_AMBIGUOUS,
        ours=(400, None),
        theirs=(200, "/red/a;x=1"),
    ),
    Case(
        "an encoded slash",
        target="/red/a%2Fb",
        differs=_AMBIGUOUS,
        ours=(400, None),
        theirs=(200, "/red/a%2Fb"),
    ),
    Case(
        "an empty segment",
        target="/red//blue",
        differs=_AMBIGUOUS,
        ours=(400, None),
        theirs=(200, "/red/blue"),
    ),
    Case(
        "a dot segment",
        target="/red/../blue",
        differs=_AMBIGUOUS,
        ours=(400, None),
        theirs=(200, "/red/../blue"),
    ),
    Case(
        "who the caller claims to be",
        headers={"X-User-Id": "1", "X-User-Roles": "ADMIN"},
        differs="GW-03: who calls is the token's, whatever the caller says",
        ours=(200, "/red/blue"),
        theirs=(200, "/red/blue"),
    ),
]

_LOCATION = {"Location": "http://object-service.prod.example.net/v2/some/object/id"}


def _answer(
    status: int = 200, body: str = "ok", /, **headers: str
) -> tuple[int, Mapping[str, str], str]:
    return status, {name.replace("_", "-"): value for name, value in headers.items()}, body


ANSWERS = [
    Case("add response header", filters=["AddResponseHeader=X-Response-Red, Blue"]),
    Case(
        "add response header, held back",
        filters=["AddResponseHeader=X-A, 2, false"],
        answer=_answer(X_A="1"),
    ),
    Case(
        "add response header to another",
        filters=["AddResponseHeader=X-A, 2"],
        answer=_answer(X_A="1"),
    ),
    Case(
        "add response header with a variable", _path("/red/{s}"), ["AddResponseHeader=X-S, v-{s}"]
    ),
    Case("set response header", filters=["SetResponseHeader=X-A, 2"], answer=_answer(X_A="1")),
    Case(
        "remove response header",
        filters=["RemoveResponseHeader=X-A"],
        answer=_answer(X_A="1", X_B="2"),
    ),
    Case(
        "rewrite response header",
        filters=["RewriteResponseHeader=X-Response-Red, password=[^&]+, password=***"],
        answer=_answer(X_Response_Red="/42?user=ford&password=omg!what&flag=true"),
    ),
    Case(
        "dedupe, first",
        filters=["DedupeResponseHeader=X-A X-B"],
        answer=_answer(X_A="1\n2", X_B="3"),
    ),
    Case(
        "dedupe, last",
        filters=["DedupeResponseHeader=X-A, RETAIN_LAST"],
        answer=_answer(X_A="1\n2"),
    ),
    Case(
        "dedupe, unique",
        filters=["DedupeResponseHeader=X-A, RETAIN_UNIQUE"],
        answer=_answer(X_A="1\n2\n1"),
    ),
    Case(
        "rewrite location",
        filters=["RewriteLocationResponseHeader=AS_IN_REQUEST, Location, , "],
        headers={"Host": "api.example.com"},
        answer=(201, _LOCATION, ""),
    ),
    Case(
        "rewrite location, versioned request",
        filters=["RewriteLocationResponseHeader=AS_IN_REQUEST"],
        target="/v2/some",
        headers={"Host": "api.example.com"},
        answer=(201, _LOCATION, ""),
    ),
    Case(
        "rewrite location, never strip",
        filters=["RewriteLocationResponseHeader=NEVER_STRIP"],
        headers={"Host": "api.example.com"},
        answer=(201, _LOCATION, ""),
    ),
    Case(
        "rewrite location, another host",
        filters=["RewriteLocationResponseHeader=ALWAYS_STRIP, Location, shown.example"],
        target="/v2/some",
        answer=(201, _LOCATION, ""),
    ),
    Case("secure headers", filters=["SecureHeaders"]),
    Case(
        "secure headers, the upstream's stay",
        filters=["SecureHeaders"],
        answer=_answer(X_Frame_Options="SAMEORIGIN"),
    ),
    Case("set status", filters=["SetStatus=401"]),
    Case("set status by name", filters=["SetStatus=BAD_REQUEST"]),
    Case("redirect", filters=["RedirectTo=302, https://acme.org"]),
    Case(
        "redirect with parameters",
        filters=["RedirectTo=301, https://acme.org, true"],
        target="/x?a=1",
    ),
    Case("an error passes", answer=(500, {}, "broken")),
    Case("a missing thing passes", answer=(404, {"X-A": "1"}, "none")),
    Case("a redirect passes", answer=(302, {"Location": "/elsewhere"}, "")),
    Case("no content passes", answer=(204, {}, "")),
    Case("retry", filters=["Retry=2"], answer=(503, {}, "")),
    Case(
        "retry with a backoff",
        filters=["Retry=2, BAD_GATEWAY, GET, 10ms, 50ms, 2, true"],
        answer=(502, {}, ""),
    ),
    Case(
        "retry with a backoff in the long form",
        filters=[
            _long(
                "Retry",
                retries=2,
                methods="GET",
                backoff={"firstBackoff": "10ms", "maxBackoff": "50ms", "factor": 2},
            )
        ],
        answer=(503, {}, ""),
    ),
    Case(
        "attributes removed",
        filters=["RemoveJsonAttributesResponseBody=a,b"],
        answer=(200, {"Content-Type": "application/json"}, '{"a":1,"c":{"a":2},"d":[{"b":3}]}'),
    ),
    Case(
        "attributes removed everywhere",
        filters=["RemoveJsonAttributesResponseBody=a,b,true"],
        answer=(200, {"Content-Type": "application/json"}, '{"a":1,"c":{"a":2},"d":[{"b":3}]}'),
    ),
    Case(
        "circuit breaker, resumed",
        filters=[_long("CircuitBreaker", name="resumed", resumeWithoutError=True)],
        uri="http://127.0.0.1:1",
    ),
    Case("retry not for POST", filters=["Retry=2"], method="POST", body=b"x", answer=(503, {}, "")),
    Case(
        "retry of a status",
        filters=[_long("Retry", retries=1, statuses="BAD_GATEWAY", series="")],
        answer=(502, {}, ""),
    ),
    Case(
        "circuit breaker, status code, route for a fallback",
        _path("/red/**"),
        filters=[
            _long(
                "CircuitBreaker",
                name="codes",
                fallbackUri="forward:/inCaseOf/codes",
                statusCodes=[500],
            )
        ],
        answer=(500, {}, "broken"),
        more=[
            {"predicates": ["Path=/inCaseOf/codes"], "filters": ["SetStatus=299"], "unmarked": True}
        ],
        differs="the first route's filters still see a fallback's answer: a default is added twice",
        ours=(299, "/inCaseOf/codes"),
        theirs=(299, "/inCaseOf/codes"),
    ),
    Case(
        "circuit breaker, an error passes",
        filters=["CircuitBreaker=passing"],
        answer=(500, {}, "broken"),
    ),
    Case(
        "circuit breaker, nobody listens",
        filters=["CircuitBreaker=nobody"],
        uri="http://127.0.0.1:1",
        differs="a route's breaker turns an unreachable service into 503, not 500",
        ours=(503, None),
        theirs=(500, None),
    ),
    Case("nobody offers the service", uri="lb://nobody-service"),
    Case("response timeout", metadata={"response-timeout": 300}, headers={"X-Slow": "2"}),
    Case("response timeout not reached", metadata={"response-timeout": 3000}),
]


def _original(service: str, *patterns: str) -> dict[str, Any]:
    """Name a route of the JVM gateway as its YAML does."""
    return {"predicates": [f"Path={','.join(patterns)}"], "uri": f"lb://{service}"}


_SERVICES = {
    "movie-service": ["/api/movies/**"],
    "customer-service": ["/api/customers/**"],
    "payment-service": ["/api/payments/**"],
    "notification-service": ["/api/notifications/**"],
    "identity-service": ["/api/auth/**", "/api/admin/**"],
}
_ASKED = [
    "/api/movies",
    "/api/movies/7?page=1&size=20",
    "/api/customers/7",
    "/api/payments/history",
    "/api/notifications/unread-count",
    "/api/auth/me",
    "/api/admin/users?role=USER",
    "/api/moviesx",
    "/movie-service/api/movies",
    "/",
]

ORIGINAL = [
    Case(
        f"the JVM gateway's routes: {target}",
        predicates=["Path=/never-asked-for"],
        target=target,
        headers={"Authorization": ADMIN},
        more=[_original(service, *paths) for service, paths in _SERVICES.items()],
    )
    for target in _ASKED
]

# Spring's own example of a locator that is told what to do; ids are in the case they came in.
LOUD = "LOUD-service"
LOCATOR = {
    "enabled": True,
    "route-id-prefix": "found_",
    "predicates": [
        {"name": "Path", "args": {"pattern": "'/'+serviceId+'/**'"}},
        {"name": "Host", "args": {"pattern": "'**.local'"}},
    ],
    "filters": [
        {"name": "AddRequestHeader", "args": {"name": "'X-Found'", "value": "serviceId"}},
        {
            "name": "RewritePath",
            "args": {
                "regexp": "'/' + serviceId + '/?(?<remaining>.*)'",
                "replacement": "'/${remaining}'",
            },
        },
    ],
}
LOCATED = [
    Case(f"located: {target}", ("Path=/never-asked-for",), target=target, headers=headers)
    for target, headers in [
        ("/movie-service/api/movies?page=1", {}),
        ("/movie-service", {}),
        ("/movie-service/a%20b/", {}),
        ("/MOVIE-SERVICE/api/movies", {}),
        ("/LOUD-service/x", {}),
        ("/loud-service/x", {}),
        ("/customer-service/api/customers", {"Host": "api.elsewhere"}),
        ("/unknown-service/x", {}),
    ]
]

CASES = [*PREDICATES, *REQUESTS, *ANSWERS, *ORIGINAL, *LOCATED]
SERVICES = (*_SERVICES, LOUD)


@dataclass(frozen=True)
class Story:
    """Requests one after the other through one route: what the first leaves, the next finds.

    Attributes:
        differs: why ours does something else on purpose; then `ours` and `theirs` say how often
            the upstream is asked.
    """

    name: str
    steps: Sequence[Case]
    filters: Sequence[Any] = ("LocalResponseCache=30s, 1MB",)
    differs: str = ""
    ours: int = 0
    theirs: int = 0


def _asked(times: int = 1, /, **more: Any) -> list[Case]:
    return [Case("", **more)] * times


def _named(name: str, *values: str, **more: Any) -> list[Case]:
    return [Case("", headers={name: value}, **more) for value in values]


def _said(cache_control: str, **more: str) -> tuple[int, Mapping[str, str], str]:
    return _answer(200, "ok", **{"Cache_Control": cache_control, **more})


_FIRST, _ANEW = _answer(200, "old"), _answer(200, "new")
_RFC = "RFC 9111: Spring compares the whole line, and keeps what must not be kept"

STORIES = [
    Story("kept: asked twice", _asked(2)),
    Story("kept: another query", [*_asked(target="/x?a=1"), *_asked(2, target="/x?a=2")]),
    Story("kept: another token", _named("Authorization", ADMIN, bearer(8, "USER"), ADMIN)),
    Story("kept: another cookie", _named("Cookie", "a=1; b=2", "b=2; a=1", "a=1")),
    Story("kept: another header", _named("X-Any", "a", "b")),
    Story("kept: varied", _named("X-Lang", "de", "en", "de", answer=_answer(Vary="X-Lang"))),
    Story("kept: varied by all", _asked(2, answer=_answer(Vary="*"))),
    Story("kept: private", _asked(2, answer=_said("private"))),
    Story("kept: no-store", _asked(2, answer=_said("no-store"))),
    Story("kept: an age of its own", _asked(2, answer=_said("public, max-age=5"))),
    Story("kept: to be validated", _asked(2, answer=_said("max-age=5, must-revalidate, public"))),
    Story("kept: older headers", _asked(2, answer=_answer(Expires="0", Pragma="x", ETag='"1"'))),
    Story("kept: not found", _asked(2, answer=_answer(404, "none"))),
    Story("kept: an error", _asked(2, answer=_answer(500, "broken"))),
    Story("kept: moved", _asked(2, answer=_answer(301, "", Location="/elsewhere"))),
    Story("kept: moved for now", _asked(2, answer=_answer(302, "", Location="/elsewhere"))),
    Story("kept: a part", _asked(2, answer=_answer(206, "ok", Content_Range="bytes 0-1/9"))),
    Story("kept: a HEAD", [*_asked(), *_asked(method="HEAD")]),
    Story("kept: a POST", [*_asked(), *_asked(2, method="POST", body=b"x")]),
    Story("kept: never for who says no-store", _named("Cache-Control", "no-store", "no-store")),
    Story(
        "kept: not for who wants it anew",
        [
            *_asked(answer=_FIRST),
            Case("", answer=_ANEW, headers={"Cache-Control": "no-cache"}),
            *_asked(answer=_ANEW),
        ],
    ),
    Story(
        "kept: as other filters leave it",
        _asked(2, target="/a/b"),
        ["StripPrefix=1", "AddResponseHeader=X-Added, 1", "LocalResponseCache=30s"],
    ),
    Story(
        "kept: no-store among others",
        _asked(2, answer=_said("no-cache, no-store, max-age=0")),
        differs=_RFC,
        ours=2,
        theirs=1,
    ),
    Story("kept: no-cache", _asked(2, answer=_said("no-cache")), differs=_RFC, ours=2, theirs=1),
    Story(
        "kept: a cookie",
        _asked(2, answer=_answer(Set_Cookie="session=1")),
        differs="a cookie is for the one who gets it",
        ours=2,
        theirs=1,
    ),
    Story(
        "kept: a range",
        _named("Range", "bytes=0-1", "bytes=2-3", answer=_answer(206, "ok")),
        differs="Spring answers one range with another",
        ours=2,
        theirs=1,
    ),
]


def marked(number: int, kind: str = "c") -> str:
    """Name a case in the header that keeps its routes apart from all others."""
    return f"{kind}{number:03}"


def routes(upstream: str) -> list[dict[str, Any]]:
    """Write all routes as one YAML list."""
    found = []
    for number, case in enumerate(CASES):
        first = {
            "predicates": list(case.predicates),
            "filters": list(case.filters),
            "order": case.order,
            "metadata": dict(case.metadata),
            "uri": case.uri or upstream,
        }
        for at, given in enumerate([first, *case.more]):
            item = {"uri": upstream, **given, "id": f"{marked(number)}-{at}"}
            if not item.pop("unmarked", False):
                item["predicates"] = [*item["predicates"], f"Header=X-Case, {marked(number)}"]
            found.append(item)
    for number, story in enumerate(STORIES):
        mark = marked(number, "s")
        predicates = ["Path=/**", f"Header=X-Case, {mark}"]
        filters = list(story.filters)
        found.append({"id": mark, "uri": upstream, "predicates": predicates, "filters": filters})
    return found
