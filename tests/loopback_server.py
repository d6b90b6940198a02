"""A small HTTP server on loopback, for what a test puts between or beside the programs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Silent(BaseHTTPRequestHandler):
    """A handler that logs no request: they stand in the test."""

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@contextmanager
def serving_with(handler: type[Silent]) -> Iterator[str]:
    """Serve requests inside the block; gives the URL, which ends with a slash."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
