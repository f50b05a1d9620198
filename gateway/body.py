"""An answer's body whole, for those few who must see all of it: never more than they can hold."""

import asyncio
from collections.abc import Callable

from gateway.exchange import Stream


async def read(body: bytes | Stream, most: int) -> bytes | Stream:
    """Return the whole body, or the stream of it when it is longer than `most` bytes.

    Raises:
        UpstreamError: the upstream broke it off.
    """
    if isinstance(body, bytes):
        return body
    if body.length is not None and body.length > most:
        return body
    reader = _Reader(body, most)
    body.attach(reader)
    try:
        return await reader.read
    except asyncio.CancelledError:
        # Nobody else would give back its connection.
        body.cancel()
        raise


class _Between:
    """The sink of the upstream's stream, and the source of the one that flows on."""

    def __init__(self, inner: Stream) -> None:
        self._inner = inner

    def pause_reading(self) -> None:
        self._inner.pause()

    def resume_reading(self) -> None:
        self._inner.resume()

    def abandon(self) -> None:
        self._inner.cancel()


class _Reader(_Between):
    """Reads an answer's body, as far as it is small enough; what is larger flows on."""

    def __init__(self, inner: Stream, most: int) -> None:
        super().__init__(inner)
        self._most = most
        self._chunks: list[bytes] = []
        self._held = 0
        self._onward: Stream | None = None
        self.read: asyncio.Future[bytes | Stream] = asyncio.get_running_loop().create_future()

    def send(self, data: bytes) -> None:
        if self._onward is not None:
            self._onward.feed(data)
            return
        self._chunks.append(data)
        self._held += len(data)
        if self._held > self._most:
            self._onward = Stream(self, self._inner.length)
            for chunk in self._chunks:
                self._onward.feed(chunk)
            self._settle(self._onward)

    def finish(self) -> None:
        if self._onward is not None:
            self._onward.end()
        else:
            self._settle(b"".join(self._chunks))

    def abort(self, error: Exception) -> None:
        if self._onward is not None:
            self._onward.fail(error)
        elif not self.read.done():
            self.read.set_exception(error)

    def _settle(self, what: bytes | Stream) -> None:
        if not self.read.done():
            self.read.set_result(what)


def copied(body: Stream, most: int, arrived: Callable[[bytes], None]) -> Stream:
    """Let a body flow on as it comes; tell it once it was here whole, if that is not too much."""
    return _Copy(body, most, arrived).onward


class _Copy(_Between):
    """Remembers what flows through it."""

    def __init__(self, inner: Stream, most: int, arrived: Callable[[bytes], None]) -> None:
        super().__init__(inner)
        self._left = most
        self._arrived = arrived
        self._chunks: list[bytes] | None = []
        self.onward = Stream(self, inner.length)
        inner.attach(self)

    def send(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._chunks = None
        elif self._chunks is not None:
            self._chunks.append(data)
        self.onward.feed(data)

    def finish(self) -> None:
        if self._chunks is not None:
            self._arrived(b"".join(self._chunks))
        self.onward.end()

    def abort(self, error: Exception) -> None:
        self.onward.fail(error)
