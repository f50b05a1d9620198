"""How the gateway starts: `gunicorn -c python:cloud.server gateway.wsgi:app`."""

from cloud.config import environment
from gateway.app import connect, create_app

app = create_app(connect(environment("gateway")))
