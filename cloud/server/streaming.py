"""gunicorn's threaded worker for a house with open streams: it lets go of a stream's socket."""

import resource
import socket
from concurrent.futures import Future
from typing import Any, Final

from gunicorn.workers.gthread import TConn, ThreadWorker

from cloud.web import streams

_GONE: Final = socket.socket()
_GONE.close()


class Worker(ThreadWorker):
    """A thread answers and is free again; `cloud.web.streams` owns the connection from then on."""

    def init_process(self) -> None:
        # Each stream is an open file, and the usual soft limit is 1024.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        streams.let_go()
        super().init_process()

    def run(self) -> None:
        try:
            super().run()
        finally:
            # It may end without a signal too, for instance after `max_requests`.
            streams.stopping.set()

    def handle_request(self, req: Any, conn: TConn) -> bool:
        """Answer; a connection that was handed over is not kept for a next request."""
        try:
            return bool(super().handle_request(req, conn))
        except streams.HandedOver:
            conn.sock = _GONE
            return False

    def finish_request(self, conn: TConn, fs: "Future[bool]") -> None:
        """Forget a connection without touching its socket when it is not ours any more."""
        if conn.sock is not _GONE:
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1
