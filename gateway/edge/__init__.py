"""The data plane: bytes to an Exchange and back, streaming, deadlines."""

from gateway.edge.worker import EdgeWorker

__all__ = ["EdgeWorker"]
