"""A payment as either publisher tells of it."""

import json
from decimal import Decimal

import pika

EVENT = {
    "transactionId": 7,
    "customerId": 1,
    "movieId": "abc",
    "amount": Decimal("10.00"),
    "currency": "usd",
    "userId": 7,
}
OURS = {"x-payment-status": "succeeded"}


def publish(channel, number: int, exchange: str = "payment-exchange", headers=OURS) -> bool:
    body = json.dumps({**EVENT, "transactionId": number}, default=float).encode()
    kept = pika.BasicProperties(content_type="application/json", delivery_mode=2, headers=headers)
    channel.exchange_declare(exchange, "topic", durable=True)
    try:
        channel.basic_publish(exchange, "payment.succeeded", body, kept, mandatory=True)
    except pika.exceptions.UnroutableError:
        return False
    return True
