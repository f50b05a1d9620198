"""The JSON that every reply shares, and the two spellings of a date-time in it."""

from datetime import UTC, datetime
from typing import Any


def envelope(data: Any, message: str | None, *, success: bool, now: datetime) -> dict[str, Any]:
    """Wrap `data`; all four keys are always present, nulls included."""
    return {
        "success": success,
        "message": message,
        "data": data,
        "timestamp": local_date_time(now),
    }


def local_date_time(moment: datetime) -> str:
    """Spell an instant as `YYYY-MM-DDTHH:MM:SS.ffffff`: no offset, meaning UTC.

    Jackson's LocalDateTime, which JVM neighbours read, fails on `+00:00`.
    """
    naive = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    return naive.isoformat(timespec="microseconds")


def zoned_date_time(moment: datetime) -> str:
    """Spell an instant as `YYYY-MM-DDTHH:MM:SS.ffffffZ`, for answers that the Flutter app reads.

    Dart takes a time without offset as device-local.
    """
    return local_date_time(moment) + "Z"
