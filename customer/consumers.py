"""Events in, one use case, an acknowledgement out."""

import structlog

from cloud.clock import Clock
from cloud.errors import InvalidError
from cloud.messaging.consumer import Delivery, Hopeless
from cloud.schema import parse_json
from customer.schema import UserCreated
from customer.service import Customers

log = structlog.get_logger()

QUEUE = "identity.customer.queue"
BINDINGS = (("identity.exchange", "user.created"),)


def user_created(delivery: Delivery, *, customers: Customers, now: Clock) -> None:
    """Give a new user his record, or link the one that has his e-mail.

    Raises:
        Hopeless: the body is not the event.
    """
    try:
        event = UserCreated.parse(parse_json(delivery.body))
    except InvalidError as error:
        raise Hopeless(f"{error} {sorted(error.fields)}") from error
    outcome = customers.welcome(event.user_id, event.email, now=now())
    log.info("user_welcomed", user_id=event.user_id, outcome=outcome)
