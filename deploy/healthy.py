"""A container's health check: 0 when the service in it is ready."""

import os
import sys
import urllib.request

given = os.environ  # noqa: TID251 - stands alone, without cloud
port = given.get("MANAGEMENT_SERVER_PORT") or given.get("SERVER_PORT", "8080")
url = f"http://127.0.0.1:{port}/actuator/health/readiness"
try:
    with urllib.request.urlopen(url, timeout=3) as answer:
        sys.exit(answer.status != 200)  # noqa: PLR2004
except OSError as error:
    sys.exit(f"{url}: {error}")
