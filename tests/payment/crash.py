"""A payment process that dies at a given point: `python -m tests.payment.crash POINT OPERATION`.

The properties come as JSON on standard input. SIGKILL leaves no time for any clean-up.
"""

import json
import os
import signal
import sys
from typing import Any

from cloud.config import Environment
from cloud.testing import bearer, properties
from payment import worker
from payment.app import create_app
from payment.store import Sandbox, SqlKeys, SqlTransactions
from tests.payment.titles import RENTED

# Each point lies behind what is named: what it does has been committed.
POINTS: dict[str, tuple[type, str]] = {
    "claim": (SqlKeys, "claim"),
    "open": (SqlTransactions, "open"),
    "start": (Sandbox, "start"),
    "attach": (SqlTransactions, "attach"),
    "charge": (Sandbox, "charge"),
    "settle": (SqlTransactions, "settle"),
    "request": (SqlTransactions, "request_refund"),
    "refund": (Sandbox, "refund"),
    "refunded": (SqlTransactions, "refunded"),
}
CREATE = {"customerId": 1, "movieId": RENTED, "amount": 4.99}
CHARGE = {"movieId": RENTED, "amount": 4.99, "paymentMethodId": "pm_card_visa"}


def die_behind(point: str) -> None:
    kind, name = POINTS[point]
    work = getattr(kind, name)

    def fatal(*args: Any, **kwargs: Any) -> None:
        work(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(kind, name, fatal)


def act(environment: Environment, operation: str) -> None:
    client, headers = create_app(environment).test_client(), bearer() | {"Idempotency-Key": "k"}
    if operation == "create":
        client.post("/api/payments/create", json=CREATE, headers=headers)
    elif operation == "process":
        client.post("/payments/process", json=CHARGE, headers=headers)
    elif operation == "refund":
        client.post("/api/payments/transaction/1/refund", headers=bearer(9, "ADMIN"))
    else:
        deps = create_app(environment).extensions["deps"]
        worker.tell(deps.provider, deps.transactions)


if __name__ == "__main__":
    die_behind(sys.argv[1])
    act(Environment(properties("payment-service", json.load(sys.stdin))), sys.argv[2])
    sys.exit("nothing died")
