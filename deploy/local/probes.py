"""Asking a server whether it can be used. A probe answers quickly, or raises."""

import json
import socket
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import psycopg2
import pymongo
import requests

_PATIENCE_S = 2.0
_ERRORS = (OSError, requests.RequestException, psycopg2.Error, pymongo.errors.PyMongoError)


def holds(probe: Callable[[], bool]) -> bool:
    """Ask; a server that cannot be reached yet does not hold."""
    try:
        return probe()
    except _ERRORS:
        return False


def fetch(
    url: str, auth: tuple[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> requests.Response:
    """Fetch a page without the proxies that a shell may name: these servers are local."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, auth=auth, headers=headers, timeout=_PATIENCE_S)


def answers(url: str, auth: tuple[str, str] | None = None) -> bool:
    """Tell whether a page answers 200."""
    return fetch(url, auth).status_code == HTTPStatus.OK


def listens(port: int) -> bool:
    """Tell whether a port accepts a connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S):
        return True


def redis_pings(port: int) -> bool:
    """Tell whether Redis answers, and has loaded its data."""
    with socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE_S) as link:
        link.settimeout(_PATIENCE_S)
        link.sendall(b"PING\r\n")
        return link.recv(16).startswith(b"+PONG")


def mongo_pings(uri: str) -> bool:
    """Tell whether a server of MongoDB's protocol answers."""
    span_ms = int(_PATIENCE_S * 1000)
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
        uri, serverSelectionTimeoutMS=span_ms, socketTimeoutMS=span_ms, directConnection=True
    )
    with client:
        return bool(client.admin.command("ping")["ok"])


def registered(eureka: str, *, status: str = "UP") -> dict[str, list[str]]:
    """Read Eureka's registry: the ports of each application's instances of that status."""
    answer = fetch(f"{eureka}/eureka/apps", headers={"Accept": "application/json"})
    found: dict[str, list[str]] = {}
    for application in json.loads(answer.content)["applications"]["application"]:
        for instance in application["instance"]:
            if instance["status"] == status:
                port = str(instance["port"]["$"])
                found.setdefault(application["name"], []).append(port)
    return found
