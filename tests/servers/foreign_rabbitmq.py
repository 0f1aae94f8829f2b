"""A RabbitMQ of yours, named by ``BUS_TEST_RABBITMQ_DSN``: tests get virtual hosts there, by the management API."""

from __future__ import annotations

import base64
import os
import urllib.request
import uuid
from urllib.parse import quote, unquote, urlsplit

VARIABLE = "BUS_TEST_RABBITMQ_DSN"
MANAGEMENT_VARIABLE = "BUS_TEST_RABBITMQ_MANAGEMENT"
TIMEOUT = 30.0  # seconds


class ForeignRabbitMq:
    """``management`` is the URL of the management API; without one, port 15672 of the same host is asked."""

    def __init__(self, dsn: str, management: str | None = None) -> None:
        self._dsn = urlsplit(dsn)
        self._management = (management or f"http://{self._dsn.hostname}:15672").rstrip("/")
        self._user, self._password = unquote(self._dsn.username or "guest"), unquote(self._dsn.password or "guest")

    @classmethod
    def from_environment(cls) -> ForeignRabbitMq | None:
        dsn = os.environ.get(VARIABLE)
        return cls(dsn, os.environ.get(MANAGEMENT_VARIABLE)) if dsn else None

    def url(self, vhost: str, port: int | None = None) -> str:
        """Return the DSN of a virtual host, perhaps through a proxy on another port of this machine."""
        at = self._dsn.netloc if port is None else f"{self._dsn.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
        return f"{self._dsn.scheme}://{at}/{quote(vhost, safe='')}"

    @property
    def address(self) -> tuple[str, int]:
        return self._dsn.hostname or "127.0.0.1", self._dsn.port or 5672

    def make_vhost(self) -> str:
        """Make a new and empty virtual host; return its name."""
        name = f"bus-test-{uuid.uuid4().hex[:12]}"
        self._ask("PUT", f"vhosts/{name}")
        everything = b'{"configure": ".*", "write": ".*", "read": ".*"}'
        self._ask("PUT", f"permissions/{name}/{quote(self._user, safe='')}", everything)
        return name

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all its queues; its connections are closed."""
        self._ask("DELETE", f"vhosts/{name}")

    def _ask(self, method: str, path: str, body: bytes = b"{}") -> None:
        credentials = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._management}/api/{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT):
            pass
