"""Failures by meaning. A house subclasses them in its domain; `cloud.web` alone knows their status.

    CloudError
     ├─ ConfigurationError      the process must not start: key, source, reason; no value
     ├─ InvalidError            400, with a reason per field where there is one
     ├─ UnauthenticatedError    401
     ├─ DeclinedError           402
     ├─ DeniedError             403
     ├─ NotFoundError           404
     ├─ ConflictError           409
     ├─ UnprocessableError      422
     ├─ ThrottledError          429, with the time to wait
     ├─ NotConfiguredError      501
     ├─ UpstreamError           502
     ├─ UnavailableError        503
     └─ DeadlineError           504

The text of an error is safe to show to a caller; its cause goes to the log.
"""

from collections.abc import Mapping
from datetime import timedelta


class CloudError(Exception):
    """Root of the tree."""


class ConfigurationError(CloudError):
    """A setting that cannot be used; the start stops with this one line."""


class InvalidError(CloudError):
    """The request cannot be accepted as it is.

    Attributes:
        fields: field name to reason, empty when the fault has no field.
    """

    def __init__(self, message: str, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields = dict(fields or {})


class UnauthenticatedError(CloudError):
    """Nobody, or nobody we believe."""


class DeclinedError(CloudError):
    """The provider refused the charge."""


class DeniedError(CloudError):
    """Known, but not allowed."""


class NotFoundError(CloudError):
    """No such thing, or none that this caller may know of."""


class ConflictError(CloudError):
    """The state of the thing forbids it."""


class UnprocessableError(CloudError):
    """Well-formed, but at odds with an earlier request (idempotency key with another body)."""


class ThrottledError(CloudError):
    """Too many requests.

    Attributes:
        retry_after: how long the caller should wait.
    """

    def __init__(self, message: str, retry_after: timedelta) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotConfiguredError(CloudError):
    """The provider that this operation needs is not configured."""


class UpstreamError(CloudError):
    """Another service answered something unusable."""


class UnavailableError(CloudError):
    """A service or store that this operation needs is not reachable."""


class DeadlineError(CloudError):
    """The answer did not come in time."""
