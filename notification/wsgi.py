"""The web process of notification: `gunicorn -c python:cloud.server notification.wsgi:app`."""

from cloud.config import environment
from notification.app import create_app

app = create_app(environment("notification"))
