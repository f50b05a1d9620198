"""Typed settings of the notification service."""

from dataclasses import dataclass
from datetime import timedelta

from cloud.config import Properties


@dataclass(frozen=True, slots=True)
class Settings:
    """One line a property.

    Attributes:
        trust_payment_events: act on a payment event without the word that the payment succeeded;
            right only where no JVM payment-service runs that tells of created payments.
        prefetch: deliveries that a consumer holds at once.
        consumers: threads that take payment events: one parses while another's write is under way.
        batch: payment events that are stored in one write.
        seen_for: how long Redis remembers that a notification was pushed.
        ownership_kept: how long an answer of customer-service about ownership is believed.
        revocation_grace: how long a token passes for grave matters after Redis last answered.
        streams: open live streams in one worker; each is an open file.
        stream_heartbeat: a comment goes out after this long without an event.
        stream_check: how often the store is asked for what a push may have missed.
        stream_poll: the same while Redis is away.
        stream_queue: events waiting for one slow client before it is dropped.
        stream_retry: what a client is told to wait before it connects again.
    """

    trust_payment_events: bool
    prefetch: int
    consumers: int
    batch: int
    seen_for: timedelta
    ownership_kept: timedelta
    revocation_grace: timedelta
    streams: int
    stream_heartbeat: timedelta
    stream_check: timedelta
    stream_poll: timedelta
    stream_queue: int
    stream_retry: timedelta

    @classmethod
    def of(cls, properties: Properties) -> "Settings":
        own = "nozie.notification"
        stream = f"{own}.stream"
        return cls(
            trust_payment_events=properties.boolean(
                "nozie.events.trust-payment-events", default=False
            ),
            prefetch=properties.integer(f"{own}.prefetch", 400, minimum=1, maximum=65535),
            consumers=properties.integer(f"{own}.consumers", 3, minimum=1, maximum=16),
            batch=properties.integer(f"{own}.batch", 200, minimum=1),
            seen_for=properties.duration(f"{own}.seen-for", timedelta(days=7)),
            ownership_kept=properties.duration(f"{own}.ownership-kept", timedelta(seconds=30)),
            revocation_grace=properties.duration(f"{own}.revocation-grace", timedelta(seconds=60)),
            streams=properties.integer(f"{stream}.limit", 4000, minimum=1),
            stream_heartbeat=properties.duration(f"{stream}.heartbeat", timedelta(seconds=15)),
            stream_check=properties.duration(f"{stream}.check", timedelta(seconds=30)),
            stream_poll=properties.duration(f"{stream}.poll", timedelta(seconds=2)),
            stream_queue=properties.integer(f"{stream}.queue", 100, minimum=1),
            stream_retry=properties.duration(f"{stream}.retry", timedelta(seconds=2)),
        )
