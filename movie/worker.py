"""What an instance does before it serves: indexes, and the seed catalogue where it is wanted."""

import json
from importlib.resources import files

import structlog

from cloud.config import Environment
from cloud.stores import mongo
from movie import store
from movie.settings import Settings

log = structlog.get_logger()


def prepare(environment: Environment) -> None:
    """Create indexes, then load the seed; safe to repeat, and on several instances at once.

    Raises:
        UnavailableError: the document store is away.
    """
    settings = Settings.of(environment.properties)
    database = mongo.database(environment.properties)
    with database.client, mongo.translated():
        store.prepare(database, view_window=settings.view_window)
        if settings.seed:
            catalogue = json.loads(files("movie").joinpath("seed.json").read_text("utf-8"))
            log.info("seed_loaded", documents=store.load_seed(database, catalogue))
