"""/actuator/mappings: which request reaches which function."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from flask import Blueprint, Flask, Response, current_app
from werkzeug.routing import Rule

from cloud.actuator.answers import KINDS, answer
from cloud.config import Environment

ROUTES: Final = "nozie.actuator.routes"
"""In `app.extensions`: gives what a gateway routes elsewhere, described as `details` in Spring."""

_PLACEHOLDER: Final = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_IMPLIED: Final = frozenset({"HEAD", "OPTIONS"})


def install(rooms: Blueprint, environment: Environment) -> Mapping[str, str]:
    """Add the endpoint."""

    @rooms.get("/mappings")
    def mappings() -> Response:
        name = environment.properties.application
        return answer({"contexts": {name: {"mappings": _mappings(current_app)}}})

    return {"mappings": "/mappings"}


def _mappings(app: Flask) -> dict[str, Any]:
    """Draw the tree that Spring Boot draws of a servlet application."""
    rules = (_described(app, rule) for rule in app.url_map.iter_rules())
    routes = app.extensions.get(ROUTES, list)()
    servlet = {"mappings": ["/"], "name": "dispatcherServlet", "className": _named(type(app))}
    return {
        "dispatcherServlets": {"dispatcherServlet": [*routes, *rules]},
        "servletFilters": list(_filters(app)),
        "servlets": [servlet],
    }


def _described(app: Flask, rule: Rule) -> dict[str, Any]:
    view = app.view_functions.get(rule.endpoint)
    pattern = _PLACEHOLDER.sub(r"{\1}", rule.rule)
    methods = sorted((rule.methods or set()) - _IMPLIED)
    produces = KINDS if rule.endpoint.startswith("actuator.") else ()
    predicate = f"{', '.join(methods)} [{pattern}]"
    if produces:
        predicate += f", produces [{' || '.join(produces)}]"
    return {
        "handler": _named(view) if view else rule.endpoint,
        "predicate": f"{{{predicate}}}",
        "details": {
            "handlerMethod": _method(view),
            "requestMappingConditions": {
                "consumes": [],
                "headers": [],
                "methods": methods,
                "params": [],
                "patterns": [pattern],
                "produces": [{"mediaType": kind, "negated": False} for kind in produces],
            },
        },
    }


def _method(view: Callable[..., Any] | None) -> dict[str, str]:
    owner, _, name = _named(view).rpartition(".")
    return {"className": owner, "name": name, "descriptor": _parameters(view)}


def _parameters(view: Callable[..., Any] | None) -> str:
    try:
        return f"({', '.join(inspect.signature(view).parameters)})" if view else "()"
    except (TypeError, ValueError):  # of a builtin
        return "(...)"


def _filters(app: Flask) -> Iterator[dict[str, Any]]:
    for hook in app.before_request_funcs.get(None, ()):
        yield {
            "servletNameMappings": [],
            "urlPatternMappings": ["/*"],
            "name": getattr(hook, "__name__", "?"),
            "className": _named(hook),
        }


def _named(thing: Any) -> str:
    module = getattr(thing, "__module__", None) or "?"
    return f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
