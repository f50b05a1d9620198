"""The web process of identity: `gunicorn -c python:cloud.server identity.wsgi:app`."""

from cloud.config import environment
from identity.app import create_app

app = create_app(environment("identity"))
