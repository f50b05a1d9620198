"""Logs: one ECS JSON object a line on stdout, for structlog and stdlib alike."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloud.config import Properties


def configure(properties: "Properties", process: str) -> None:
    """Set up this process's logs."""
