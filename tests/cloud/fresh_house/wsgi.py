"""Serves what it is configured with, by process, and what its pool says of the database."""

import logging
import math
import os

from flask import Flask, request
from sqlalchemy import text

from cloud import actuator, web
from cloud.config import Environment, environment
from cloud.stores import postgres
from cloud.web.streams import OpenStream, event_stream
from tests.cloud.fresh_house.settings import Settings


def _nothing() -> None:
    pass


def create_app(own: Environment) -> Flask:
    app = Flask("fresh")
    web.install(app, own)
    web.lean_on(app, own, lambda: Settings.of(own.properties), Settings.of)
    databases = own.properties.get("spring.datasource.url") is not None

    @app.get("/settings")
    def settings():
        level = logging.getLogger("nozie.fresh").getEffectiveLevel()
        found = web.current(Settings)
        return {
            "pid": os.getpid(),
            "greeting": found.greeting,
            "limit": found.limit,
            "level": logging.getLevelName(level),
            "body": app.config["MAX_CONTENT_LENGTH"],
        }

    @app.get("/database")
    def database():
        with postgres.shared(own).connect() as connection:
            connection.execute(text(f"SELECT pg_sleep({float(request.args.get('s', '0'))})"))
            name, pid = connection.execute(
                text("SELECT current_database(), pg_backend_pid()")
            ).one()
        return {"pid": os.getpid(), "database": name, "backend": pid}

    @app.get("/stream")
    def stream():
        times = int(request.args.get("times", "0"))
        opened = OpenStream(heartbeat=0.5, until=math.inf, limit=100 + times, closed=_nothing)
        for _ in range(times):
            opened.send(b"data: more\n\n" * 4096)
        return event_stream([b"data: first\n\n"], opened)

    checks = {"db": postgres.check(own)} if databases else {}
    actuator.install(app, own, checks=checks, essential=())
    return app


app = create_app(environment("tests.cloud.fresh_house"))
