"""Ten thousand payments while things go wrong, and whether any was lost or doubled.

`python -m bench.payments --payments 10000 --rate 40 --seed 1` pays through the gateway of an estate
of its own (real servers, data below .data/storm), kills processes and restarts servers meanwhile,
waits until nothing waits any more, and counts in the stores. Exits with 1 when a promise is broken.
"""

import argparse
import itertools
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Final

from bench import ledger, terminal
from bench.faults import Storm, Tap
from bench.shop import (
    NO_ANSWER,
    PLANS,
    WEBHOOK_SECRET,
    Answer,
    Client,
    Item,
    Person,
    opened,
    people,
    people_for,
    rentals,
)
from bench.terminal import say
from payment.domain import Status, TransactionId, Verdict
from payment.schema import dump_event, sign

_THREADS: Final = 24
_PLANS: Final = 0.15
_DOUBLED: Final = 0.1
_WEBHOOKS: Final = 0.15
_FORGED: Final = 0.02
_REPEATED: Final = 0.1
_CARDS: Final = {
    "": 90,
    "pm_card_visa": 6,
    "pm_card_chargeDeclined": 3,
    "pm_card_timeout": 1,
}
_FINAL: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.PAYMENT_REQUIRED})
_LATER: Final = frozenset({NO_ANSWER, 409, 502, 503, 504})
_TOLERATED: Final = frozenset({502, 503, 504})
_FAULTS: Final = "answers 5xx but 502, 503, 504, or none"
_DELAY: Final = 0.3
_AGAIN_S: Final = 2
_SETTINGS: Final = {
    "nozie.payment.sandbox.delay": f"{_DELAY * 1000:.0f}ms",
    # A killed worker leaves its key in flight for as long, and what no event tells is asked for.
    "nozie.payment.claim-lease": "5s",
    "nozie.payment.reconcile-after": "10s",
}


@dataclass(order=True)
class Call:
    """Something to do at `due`; equal times go by `number`."""

    due: float
    number: int
    act: Callable[[], None] = field(compare=False)


class Crowd:
    """Threads that do calls when they are due, and calls that these bring about."""

    def __init__(self) -> None:
        self._calls: queue.PriorityQueue[Call] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self.failures: list[BaseException] = []
        for _ in range(_THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def put(self, due: float, act: Callable[[], None]) -> None:
        """Let something be done at a time of the monotonic clock."""
        self._calls.put(Call(due, next(self._numbers), act))

    def left(self) -> int:
        """Count what is not done yet."""
        return self._calls.unfinished_tasks

    def _work(self) -> None:
        while True:
            call = self._calls.get()
            wait = call.due - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, 0.02))  # noqa: TID251 - until it is due
                self._calls.put(call)
            else:
                try:
                    call.act()
                except BaseException as error:  # noqa: BLE001 - told at the end
                    self.failures.append(error)
            self._calls.task_done()


@dataclass(frozen=True, slots=True)
class Order:
    """Who buys what, by which card; without one his device confirms later."""

    person: Person
    item: Item
    card: str
    key: str

    @property
    def path(self) -> str:
        """Where it is sent."""
        return "/payments/process" if self.card else "/api/payments/create"

    @property
    def body(self) -> dict[str, object]:
        """What is sent."""
        how = {"paymentMethodId": self.card} if self.card else {}
        about: dict[str, object] = {"movieId": self.item.id, "amount": self.item.price, **how}
        return about if self.card else {**about, "customerId": self.person.customer_id}


class Market:
    """The buyers: each order is sent until it is answered, some twice at once."""

    def __init__(self, client: Client, crowd: Crowd, dice: random.Random) -> None:
        self._client, self._crowd, self._dice = client, crowd, dice
        self.answers: dict[tuple[int, str], set[int]] = {}
        self.odd: Counter[str] = Counter()
        self.webhooks = self.forged = self.doubled = self.answered = 0

    def offer(self, order: Order, due: float) -> None:
        """Let an order be made."""
        self.answers[order.person.user_id, order.key] = set()
        copies = 2 if self._dice.random() < _DOUBLED else 1
        self.doubled += copies - 1
        chance, forged = self._dice.random() < _WEBHOOKS, self._dice.random() < _FORGED
        for copy in range(copies):
            self._crowd.put(due, lambda copy=copy: self._send(order, not copy, chance, forged))  # type: ignore[misc]

    def _send(self, order: Order, first: bool, chance: bool, forged: bool) -> None:  # noqa: FBT001 - of a lambda
        answer = self._client.ask(
            "POST",
            order.path,
            order.body,
            token=order.person.token,
            headers={"Idempotency-Key": order.key},
        )
        if answer.status in _FINAL:
            self._note(order, answer, first=first, chance=chance, forged=forged)
        elif answer.status in _LATER:
            again = time.monotonic() + _AGAIN_S
            self._crowd.put(again, lambda: self._send(order, first, chance, forged))
        else:
            self.odd[f"{answer.status} of {order.path}"] += 1

    def _note(
        self, order: Order, answer: Answer, *, first: bool, chance: bool, forged: bool
    ) -> None:
        number = int((answer.data or {}).get("transactionId", 0))
        # A card that was declined: answered, without a number.
        self.answers[order.person.user_id, order.key].add(number)
        if not first:
            return
        self.answered += 1
        if order.card:
            return
        intent = answer.data["clientSecret"].partition("_secret_")[0]
        now = time.monotonic()
        if chance:
            event = _event(order, number, intent, Status.SUCCEEDED)
            for after in (_DELAY, _DELAY * 2):
                self.webhooks += 1
                self._crowd.put(now + after, lambda: self._tell(event, WEBHOOK_SECRET, 200))
        if forged:
            self.forged += 1
            event = _event(order, number, intent, Status.CANCELED)
            self._tell(event, "whsec_of_nobody", 400)

    def _tell(self, event: bytes, secret: str, wanted: int) -> None:
        """Send an event as the provider does, and again while nobody takes it."""
        signed = {"Stripe-Signature": sign(event, secret, now=datetime.now(UTC))}  # noqa: TID251
        status = self._client.ask("POST", "/api/payments/webhook", event, headers=signed).status
        if status in _LATER:
            self._crowd.put(time.monotonic() + 1, lambda: self._tell(event, secret, wanted))
        elif status != wanted:
            self.odd[f"{status} instead of {wanted} of a webhook"] += 1


def _event(order: Order, number: int, intent: str, status: Status) -> bytes:
    paid = status is Status.SUCCEEDED
    return dump_event(
        Verdict(
            transaction_id=TransactionId(number),
            intent_id=intent,
            status=status,
            amount=Decimal(order.item.price),
            currency="usd",
            charge_id=intent.replace("pi_", "ch_", 1) if paid else None,
            reason=None,
        )
    )


def orders(
    count: int, buyers: list[Person], titles: list[Item], dice: random.Random
) -> Iterator[Order]:
    """Draw orders: a title once a person, plans as often as it comes."""
    singles = [(person, title) for person in buyers for title in titles]
    dice.shuffle(singles)
    for number in range(count):
        if dice.random() < _PLANS:
            person, item = dice.choice(buyers), dice.choice(PLANS)
        else:
            person, item = singles.pop()
        (card,) = dice.choices(list(_CARDS), list(_CARDS.values()))
        yield Order(person, item, card, f"order-{number}")


def main() -> None:
    """Read the command line, and let it storm."""
    parser = terminal.parser("bench.payments", __doc__)
    parser.add_argument("--payments", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=30, help="payments a second")
    parser.add_argument("--every", type=float, default=8, help="seconds from fault to fault")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=1800, help="seconds, for all payments")
    terminal.run(parser, _run)


def _run(given: argparse.Namespace) -> int:
    dice = random.Random(given.seed)  # noqa: S311 - moments, not secrets
    with opened("storm", say, _SETTINGS) as estate:
        client = Client(estate.address("gateway"))
        titles = rentals(client, people(client, 1, "reader")[0].token)
        buyers = people(client, people_for(given.payments, len(titles)), "buyer")
        say(f"{len(buyers)} buyers, {len(titles)} titles, {given.rate:g} payments a second")
        client.statuses.clear()
        tap = Tap(estate.site.ports["rabbit"], _REPEATED, random.Random(dice.random()))  # noqa: S311
        tap.start()
        tap.ready.wait(30)
        crowd = Crowd()
        market = Market(client, crowd, random.Random(dice.random()))  # noqa: S311
        began = time.monotonic()
        drawn = orders(given.payments, buyers, titles, dice)
        for number, order in enumerate(drawn):
            market.offer(order, began + 1 + number / given.rate)
        storm = Storm(estate, tap, given.every, random.Random(dice.random()))  # noqa: S311
        storm.start()
        _watch(crowd, market, storm, given)
        took = time.monotonic() - began
        storm.end()
        say("waiting until nothing waits any more …")
        left = ledger.settle(estate)
        tap.end()
        promises = ledger.judge(estate, tap.heard, market.answers)
        promises += [ledger.Promise(f"still waiting: {what}", n, 0) for what, n in left.items()]
        promises += [ledger.Promise(f"unexpected: {what}", n, 0) for what, n in market.odd.items()]
        promises.append(ledger.Promise(_FAULTS, _faults(client.statuses), 0))
    say(_report(given, market, tap, storm, client, took))
    say("| promise | is | ought | |\n|---|---|---|---|")
    say("\n".join(map(str, promises)))
    for failure in crowd.failures[:3]:
        say(f"failed: {failure!r}")
    return 0 if all(one.kept for one in promises) and not crowd.failures else 1


def _faults(statuses: Mapping[int, int]) -> int:
    bad = (each for each in statuses if each == NO_ANSWER or each >= 500)  # noqa: PLR2004 - of HTTP
    return sum(statuses[each] for each in bad if each not in _TOLERATED)


def _watch(crowd: Crowd, market: Market, storm: Storm, given: argparse.Namespace) -> None:
    """Wait until all is answered, and tell how it goes."""
    began = told = time.monotonic()
    while crowd.left() and time.monotonic() < began + given.limit:
        time.sleep(0.2)  # noqa: TID251 - other threads work
        if time.monotonic() - told > 10:  # noqa: PLR2004 - seconds
            told = time.monotonic()
            faults = sum(storm.happened.values())
            say(f"  {told - began:5.0f} s  {market.answered} of {given.payments}, {faults} faults")


def _report(
    given: argparse.Namespace, market: Market, tap: Tap, storm: Storm, client: Client, took: float
) -> str:
    copies = Counter(one.message_id for one in tap.heard)
    twice = sum(count - 1 for count in copies.values())
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(client.statuses.items()))
    facts = {
        "payments": given.payments,
        "seconds until the last was answered": round(took),
        "sent twice at once with one key": market.doubled,
        "webhooks sent again": market.webhooks,
        "webhooks forged": market.forged,
        "messages published again by the bench": tap.repeated,
        "messages published again by a relay": twice,
        "messages given out again by the broker, as far as it counted": storm.redelivered,
        "events in the outbox as the relay was killed": storm.caught,
        **storm.happened,
    }
    head = f"\n{terminal.machine()}, seed {given.seed}"
    lines = [f"| {name} | {count} |" for name, count in facts.items()]
    return "\n".join(
        [head, f"answers: {statuses}", "", "| what happened | |", "|---|---|", *lines, ""]
    )


if __name__ == "__main__":
    main()
