"""Clients that hold every answer they get against the OpenAPI files, for house and system tests.

client = checked(app, "movie")          # Flask's own test client, with a judge beside it
session = CheckedSession(gateway_url)   # requests.Session, for a running estate
"""

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import orjson
import requests
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.contract.openapi import (
    OF_THE_GATEWAY,
    Document,
    Received,
    described,
    document,
    ensure_agrees,
    ensure_parameters,
    ensure_request,
)

_STREAM: Final = "text/event-stream"


class CheckedClient(FlaskClient):
    """Flask's test client; raises ContractError where an answer is not what the document says.

    Attributes:
        holds_requests: an accepted query or JSON body must fit its schema too. Off where a test
            shows how lenient the service is beyond what it documents.
    """

    document: Document
    holds_requests = True

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        response = super().open(*args, **kwargs)
        request = response.request
        is_stream = response.mimetype == _STREAM
        received = Received(
            method=request.method,
            path=request.path,
            status=response.status_code,
            content_type=response.headers.get("Content-Type", ""),
            body=None if is_stream else response.get_data(),
            headers={name.lower(): value for name, value in response.headers},
        )
        ensure_agrees([self.document], received)
        if self.holds_requests and response.status_code < 300:
            query = request.args.to_dict()
            ensure_parameters(self.document, request.method, request.path, query)
            if "json" in kwargs:
                ensure_request(self.document, request.method, request.path, kwargs["json"])
        return response


def checked(app: Flask, house: str, *, holds_requests: bool = True) -> CheckedClient:
    """Return a test client of `app` whose answers are held against `<house>/openapi.yaml`."""
    client = CheckedClient(app, app.response_class, use_cookies=False)
    client.document = document(house)
    client.holds_requests = holds_requests
    return client


class CheckedSession(requests.Session):
    """A session against one address, usually the gateway's; paths are relative to it.

    Every answer must agree with the document of the house whose path it is. Streams are judged by
    status and content type only, and left open for the test to read.
    """

    def __init__(
        self, url: str, houses: Sequence[str] | None = None, *, timeout_s: float = 10
    ) -> None:
        super().__init__()
        self.trust_env = False
        self._url = url.rstrip("/")
        self._documents = [document(house) for house in houses or described()]
        self._timeout_s = timeout_s

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        target = url if urlsplit(str(url)).scheme else f"{self._url}{url}"
        kwargs.setdefault("timeout", self._timeout_s)
        kwargs.setdefault("allow_redirects", False)
        response = super().request(method, target, *args, **kwargs)
        kind = response.headers.get("Content-Type", "")
        path = unquote(urlsplit(response.url).path)
        received = Received(
            method=str(method).upper(),
            path=path,
            status=response.status_code,
            content_type=kind,
            body=None if kwargs.get("stream") or kind.startswith(_STREAM) else response.content,
            headers={name.lower(): value for name, value in response.headers.items()},
        )
        ensure_agrees(self._documents, received, general=OF_THE_GATEWAY)
        if response.status_code < 300 and kwargs.get("json") is not None:
            sent = orjson.loads(orjson.dumps(kwargs["json"]))
            for one in self._documents:
                ensure_request(one, received.method, path, sent)
        return response
