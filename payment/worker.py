"""The other processes of payment: migrations, the relay of its outbox, the sandbox provider."""

import structlog

log = structlog.get_logger(__name__)
