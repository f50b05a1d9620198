"""Calls to others: customer records, payment, a mail server, Firebase, and our own queues."""

from notification.clients.letters import RabbitPost, Templates
from notification.clients.neighbours import CustomerClient, PaymentClient

__all__ = ["CustomerClient", "PaymentClient", "RabbitPost", "Templates"]
