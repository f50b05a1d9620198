"""The web process of movie: `gunicorn -c python:cloud.server movie.wsgi:app`."""

from cloud.config import environment
from movie.app import create_app

app = create_app(environment("movie"))
