"""Calls under a breaker, which end as the request says."""

import os

from flask import Flask, request

from cloud import actuator, web
from cloud.breaker import Breakers, NotPermittedError
from cloud.config import Environment, environment


def create_app(own: Environment) -> Flask:
    app = Flask("breaker-house")
    web.install(app, own)
    actuator.install(app, own, checks={}, essential=())
    Breakers(own.properties).get("callee")

    @app.get("/call")
    def call():
        """Make as many calls as asked, and tell how many were permitted."""
        breaker = Breakers(own.properties).get(request.args.get("breaker", "callee"))
        permits = []
        for _ in range(int(request.args.get("times", "1"))):
            try:
                permits.append(breaker.acquire())
            except NotPermittedError:
                continue
        for permit in permits:
            permit.failed() if "fail" in request.args else permit.succeeded()
        return {"pid": os.getpid(), "permitted": len(permits), "state": breaker.state.name}

    return app


app = create_app(environment("tests.cloud.breaker_house"))
