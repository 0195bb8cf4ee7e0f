"""Serves metrics and probes over HTTP, on a port and in threads of their own.

So that they answer also while the event loop is stuck: that is when they are needed.
"""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from escalade_server.engine.ports import Mistakes

TIMEOUT_S = 5.0
LONGEST_S = 10.0
"""For a whole connection, however slowly it is read."""
CONNECTIONS_MAX = 16
"""At once; one more is closed unheard."""

Render = Callable[[str], tuple[str, bytes]]
"""From what the reader accepts to the type and text of the metrics."""
Probe = Callable[[], str]
"""Says what is wrong; nothing when all is well."""
_TEXT = "text/plain; charset=utf-8"


class EndpointError(Exception):
    """It cannot listen where it was told to."""


class Endpoint:
    """``/metrics``, ``/livez`` and ``/readyz``; listens until ``close``."""

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        render: Render,
        alive: Probe,
        ready: Probe,
        mistakes: Mistakes,
    ) -> None:
        """Listen at once; port 0 is any free one, and a string the path of a Unix socket.

        Raises:
            EndpointError: the address cannot be had.
        """
        self._pages: dict[str, Callable[[str], tuple[int, str, bytes]]] = {
            "/metrics": lambda accept: (200, *render(accept)),
            "/livez": lambda _: _told(alive()),
            "/readyz": lambda _: _told(ready()),
        }
        self._mistakes = mistakes
        try:
            self._server = _Server(address, self.page)
        except OSError as error:
            raise EndpointError(error.strerror or f"{error}") from error
        self.where = _written(self._server.server_address)
        """Where it listens, as a reader writes it."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="escalade-metrics", daemon=True
        )
        self._thread.start()

    def page(self, path: str, accept: str) -> tuple[int, str, bytes]:
        """Answer the status, type and text of a page. Never raises."""
        page = self._pages.get(urlsplit(path).path)
        if page is None:
            return 404, _TEXT, b"there are /metrics, /livez and /readyz\n"
        try:
            return page(accept)
        except Exception as error:  # noqa: BLE001 - words may say too much: they stay here
            return 500, _TEXT, f"a mistake of ours: {self._mistakes(error)}\n".encode()

    def close(self) -> None:
        """Let the port go; safe twice."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """Few connections at once, each for a short time."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = CONNECTIONS_MAX

    def __init__(
        self, address: tuple[str, int] | str, page: Callable[[str, str], tuple[int, str, bytes]]
    ) -> None:
        if isinstance(address, str):
            self.address_family = socket.AF_UNIX
        elif ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._room = threading.BoundedSemaphore(CONNECTIONS_MAX)

        class Handler(_Handler):
            answer = staticmethod(page)

        super().__init__(address, Handler)  # type: ignore[arg-type]  # a path, too: see above

    def server_bind(self) -> None:
        """Bind without asking for the host's name, which may take seconds."""
        if self.address_family == socket.AF_UNIX:
            Path(str(self.server_address)).unlink(missing_ok=True)  # of who was here before
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Take a connection, if there is room."""
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """Serve it on its own thread."""
        assert isinstance(request, socket.socket), "TCP"
        cut = threading.Timer(LONGEST_S, _cut, (request,))
        cut.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cut.cancel()
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a reader that leaves is no mistake of ours."""


class _Handler(BaseHTTPRequestHandler):
    """One request a connection."""

    server_version = "escalade"
    sys_version = ""
    timeout = TIMEOUT_S
    answer: Callable[[str, str], tuple[int, str, bytes]]

    def do_GET(self) -> None:
        """Answer a page."""
        status, kind, body = self.answer(self.path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Log nothing of it."""


def _written(address: object) -> str:
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _told(wrong: str) -> tuple[int, str, bytes]:
    return (503 if wrong else 200), _TEXT, f"{wrong or 'ok'}\n".encode()
