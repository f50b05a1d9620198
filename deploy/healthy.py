"""A container's health check: 0 when the service in it is ready."""

import os
import ssl
import sys
import urllib.request

given = os.environ  # noqa: TID251 - stands alone, without cloud
port = given.get("MANAGEMENT_SERVER_PORT") or given.get("SERVER_PORT", "8080")
sealed = any(name.startswith("SERVER_SSL_") for name in given)
sealed = sealed and given.get("SERVER_SSL_ENABLED", "").lower() != "false"
# It asks itself: whose the certificate is does not matter.
tls = ssl.create_default_context()
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
url = f"http{'s' if sealed else ''}://127.0.0.1:{port}/actuator/health/readiness"
try:
    with urllib.request.urlopen(url, timeout=3, context=tls) as answer:  # noqa: S310 - see above
        sys.exit(answer.status != 200)  # noqa: PLR2004
except OSError as error:
    sys.exit(f"{url}: {error}")
