"""What became of every payment, read in the stores, and the promises held against it."""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg2
import pymongo
import requests

from bench.faults import Heard, queues
from deploy.local import Estate, servers
from deploy.local.site import Site
from deploy.local.supervisor import wait_until

_DATABASES: Final = ("paymentdb", "customerdb", "identitydb")
_SETTLED_S: Final = 600
# The broker's counts are five seconds old: what is empty must be empty for longer.
_LOOK_S: Final = 6
_DAY_S: Final = 86_400


@dataclass(frozen=True, slots=True)
class Promise:
    """One count that must be what it should be.

    Attributes:
        text: what is counted.
        is_: the count.
        ought: what it should be.
    """

    text: str
    is_: int
    ought: int

    @property
    def kept(self) -> bool:
        """Tell whether it is."""
        return self.is_ == self.ought

    def __str__(self) -> str:
        """Write it as a line of a table."""
        return f"| {self.text} | {self.is_} | {self.ought} | {'' if self.kept else 'BROKEN'} |"


def settle(estate: Estate, seconds: float = _SETTLED_S) -> dict[str, int]:
    """Wait until nothing waits anywhere; return what does all the same."""
    waiting: dict[str, int] = {"unknown": 1}
    quiet = 0

    def look() -> bool:
        nonlocal quiet
        try:
            waiting.clear()
            waiting.update(_waiting(estate))
        except (psycopg2.Error, requests.RequestException) as error:
            waiting[type(error).__name__] = 1
        quiet = 0 if waiting else quiet + 1
        return quiet > 1

    wait_until(look, seconds, _LOOK_S)
    return waiting


def _waiting(estate: Estate) -> dict[str, int]:
    found: dict[str, int] = {}
    for database in _DATABASES:
        found[f"outbox of {database}"] = int(
            _rows(estate.site, database, "SELECT count(*) FROM outbox")[0][0]
        )
    pending = "SELECT count(*) FROM transactions WHERE status = 'pending'"
    found["pending payments"] = int(_rows(estate.site, "paymentdb", pending)[0][0])
    for queue in queues(estate):
        if not queue["name"].endswith(".dlq"):
            found[queue["name"]] = queue.get("messages", 0)
    return {name: count for name, count in found.items() if count}


def dead_letters(estate: Estate) -> int:
    """Count what consumers gave up."""
    return sum(queue.get("messages", 0) for queue in queues(estate) if queue["name"][-4:] == ".dlq")


def judge(
    estate: Estate, heard: list[Heard], answers: Mapping[tuple[int, str], set[int]]
) -> list[Promise]:
    """Hold the promises against the stores.

    Args:
        estate: nothing waits in it any more.
        heard: all messages that went out, without those that the bench sent again.
        answers: ids of transactions that were answered, by user and idempotency key.
    """
    payments = _rows(
        estate.site,
        "paymentdb",
        "SELECT id, status, user_id, idempotency_key, customer_id, plan_days FROM transactions",
    )
    paid = {row[0] for row in payments if row[1] == "succeeded"}
    plans = {row[0]: (row[4], row[5]) for row in payments if row[1] == "succeeded" and row[5]}
    return [
        *_keys(payments, answers),
        *_events(paid, heard),
        *_notifications(estate.site, paid),
        *_memberships(estate.site, plans, heard),
        Promise("dead letters", dead_letters(estate), 0),
    ]


def _keys(payments: list[Any], answers: Mapping[tuple[int, str], set[int]]) -> list[Promise]:
    keys = Counter((row[2], row[3]) for row in payments)
    return [
        Promise("transactions, one for each idempotency key", len(payments), len(answers)),
        Promise("keys with two transactions", sum(count > 1 for count in keys.values()), 0),
        Promise(
            "keys answered with two transactions", sum(len(a) > 1 for a in answers.values()), 0
        ),
        Promise("keys never answered", sum(not found for found in answers.values()), 0),
    ]


def _events(paid: set[int], heard: list[Heard]) -> list[Promise]:
    names = defaultdict(set)
    for one in heard:
        if one.key == "payment.succeeded":
            names[int(json.loads(one.body)["transactionId"])].add(one.message_id)
    return [
        Promise("succeeded payments announced", len(paid & set(names)), len(paid)),
        Promise("announced by two events", sum(len(ids) > 1 for ids in names.values()), 0),
        Promise("announced, but not succeeded", len(set(names) - paid), 0),
    ]


def _notifications(site: Site, paid: set[int]) -> list[Promise]:
    client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(servers.mongo_uri(site))
    with client:
        found = client["notificationdb"]["notifications"].find({"type": "purchase"})
        told = Counter(int(one["metadata"]["transactionId"]) for one in found)
    return [
        Promise("succeeded payments with a notification", len(paid & set(told)), len(paid)),
        Promise("with two notifications", sum(count > 1 for count in told.values()), 0),
        Promise("notified, but not succeeded", len(set(told) - paid), 0),
    ]


def _memberships(
    site: Site, plans: Mapping[int, tuple[int, int]], heard: list[Heard]
) -> list[Promise]:
    rows = _rows(
        site,
        "customerdb",
        "SELECT p.transaction_id, p.customer_id, p.starts_at, p.ends_at, c.subscription_expires_at"
        " FROM plan_payments p JOIN customers c ON c.id = p.customer_id",
    )
    periods = Counter(row[0] for row in rows)
    bought: Counter[int] = Counter()
    for customer, days in plans.values():
        bought[customer] += days * _DAY_S
    begun: dict[int, Any] = {}
    ends: dict[int, Any] = {}
    for _, customer, starts, _, expires in rows:
        begun[customer] = min(begun.get(customer, starts), starts)
        ends[customer] = expires
    lasting = {each: int((ends[each] - begun[each]).total_seconds()) for each in begun}
    changes = {one.message_id for one in heard if one.key == "membership.changed"}
    return [
        Promise("succeeded plans in a membership", len(set(plans) & set(periods)), len(plans)),
        Promise("counted twice", sum(count > 1 for count in periods.values()), 0),
        Promise("counted, but not succeeded", len(set(periods) - set(plans)), 0),
        Promise(
            "members with exactly the days they paid for",
            sum(lasting.get(each) == length for each, length in bought.items()),
            len(bought),
        ),
        Promise("changes of membership told", len(changes), len(plans)),
    ]


def _rows(site: Site, database: str, query: str) -> list[Any]:
    with closing(servers.connect(site, database)) as link, link.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()
