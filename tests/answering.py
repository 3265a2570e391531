"""A server that gives prepared answers, whatever is asked, for tests of what clients make of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Raw", "answering"]


@dataclass(frozen=True)
class Raw:
    """An answer that is not JSON, or not of status 200."""

    content: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def answering(answers: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Serve answers by the end of a path, each as `Raw`, JSON types, or a function of the query.

    Gives the URL, and the paths that were asked for, to which each request adds its own. What no
    answer is prepared for is 404.
    """
    seen: list[str] = []

    class Site(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked = urlsplit(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.append(asked.path)
            found = next(
                (found for end, found in answers.items() if asked.path.endswith(f"/{end}")),
                Raw(b"{}", 404),
            )
            found = found(asked.query) if callable(found) else found
            raw = found if isinstance(found, Raw) else Raw(json.dumps(found).encode())
            self.send_response(raw.status)
            for name, value in raw.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(raw.content)))
            self.end_headers()
            self.wfile.write(raw.content)

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

    with Server(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
