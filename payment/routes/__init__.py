"""HTTP in, one use case, HTTP out."""

from payment.routes import client, payments, webhook

BLUEPRINTS = (payments.bp, webhook.bp, client.bp)
