"""The web process of payment: `gunicorn -c python:cloud.server payment.wsgi:app`."""

from cloud.config import environment
from payment.app import create_app

app = create_app(environment("payment"))
