"""Health check of a container: `python -m shared.probe` asks its own process whether it is ready, 1 if it is not."""

import http.client
import os
import ssl
import sys
from collections.abc import Mapping
from typing import Final

_PATIENCE_S: Final = 4.0


def ready(environment: Mapping[str, str]) -> bool:
    """Ask `/readyz` on the port that the environment gives to a service, or else to the gateway."""
    port = environment.get("STDWEB_HEALTH_PORT") or environment.get("STDWEB_PORT", "8000")
    connection: http.client.HTTPConnection
    if "STDWEB_HEALTH_PORT" not in environment and (own := environment.get("STDWEB_TLS_CERTIFICATE")):
        # its own certificate and no other one; it is for the name that browsers know
        only_own = ssl.create_default_context(cafile=own)
        only_own.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        only_own.check_hostname = False
        connection = http.client.HTTPSConnection("127.0.0.1", int(port), timeout=_PATIENCE_S, context=only_own)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(0 if ready(os.environ) else 1)
