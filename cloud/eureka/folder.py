"""The run folder: what the processes of one instance share on disk."""

import os
import tempfile
from pathlib import Path

from cloud.config import Properties
from cloud.errors import ConfigurationError

REGISTRY = "registry.json"
PREPARED = "prepared"
METRICS = "prometheus"


def run_folder(properties: Properties) -> Path:
    """Name the folder, by `nozie.server.run-dir` or from user, application and port."""
    port = properties.integer("server.port", 8080)
    name = f"{properties.application}-{port}"
    default = Path(tempfile.gettempdir()) / f"nozie-{os.getuid()}" / name
    return Path(properties.text("nozie.server.run-dir", str(default)))


def create_run_folder(properties: Properties) -> Path:
    """Make the folder, readable by this user alone.

    Raises:
        ConfigurationError: it cannot be made, or belongs to somebody else. Below a folder that
            everybody may write to, a stranger could have been first.
    """
    folder = run_folder(properties)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
        if owner == os.getuid() and not folder.is_symlink():
            folder.chmod(0o700)
            return folder
    except OSError as error:
        raise ConfigurationError(f"nozie.server.run-dir: {folder}: {error.strerror}") from error
    raise ConfigurationError(f"nozie.server.run-dir: {folder} belongs to another user")
