"""The web process of customer: `gunicorn -c python:cloud.server customer.wsgi:app`."""

from cloud.config import environment
from customer.app import create_app

app = create_app(environment("customer"))
