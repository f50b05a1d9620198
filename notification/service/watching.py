"""Use case: an open stream misses nothing, and outlives neither its token nor its worker."""

import threading
from datetime import timedelta
from typing import Final

import structlog

from cloud.clock import Clock
from cloud.errors import UnavailableError
from notification.domain import Listener
from notification.service.ports import Notifications, Revocations, Streams

log = structlog.get_logger()

# Consumers may store in another order than their clocks said, and some time after they looked at
# them: looking back this far loses none. What a stream sent already it does not send again.
OVERLAP: Final = timedelta(seconds=5)


class Watch:
    """Looks into the store for what a push may have missed, for all streams of this worker.

    One thread does it, one stream after the other: a slow store makes rounds rare, not streams
    slow. It is there while there are streams.

    Args:
        check: how often in any case.
        poll: how often while pushes do not arrive.
    """

    def __init__(
        self,
        streams: Streams,
        notifications: Notifications,
        revocations: Revocations,
        *,
        check: timedelta,
        poll: timedelta,
        now: Clock,
    ) -> None:
        self._streams = streams
        self._notifications = notifications
        self._revocations = revocations
        self._check = check.total_seconds()
        self._poll = poll.total_seconds()
        self._now = now
        self._looked = now()
        self._lock = threading.Lock()
        self._running = False

    def join(self, listener: Listener) -> None:
        """Push to `listener` from here on, and look after it."""
        self._streams.join(listener)
        with self._lock:
            if not self._running:
                self._running, self._looked = True, self._now()
                threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        while self._streams.wait(self._check if self._streams.live else self._poll):
            try:
                self.look()
            except Exception:
                # Without this thread streams would miss what a push did not bring, and nobody knew.
                log.exception("look_failed")
            with self._lock:
                if not self._streams.listeners():
                    self._running = False
                    return

    def look(self) -> None:
        """Take one round; a store that is away is asked again in the next."""
        started, listeners = self._now(), self._streams.listeners()
        revoked = self._revocations.among([each.caller for each in listeners])
        try:
            for each in listeners:
                if each.caller.jti in revoked:
                    each.end()
                    continue
                for found in self._notifications.since(each.audience, self._looked - OVERLAP):
                    each.offer(found)
        except UnavailableError:
            return
        self._looked = started
