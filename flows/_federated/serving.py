"""A site's member behind the front of its link: HTTP on a Unix socket that nobody else can enter."""

from __future__ import annotations

import asyncio
import json
import socket
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from backends.links import Link
from flows._federated.masking import MaskingError
from flows._federated.member import Member
from orchestrator.links.front import Front, Service

__all__ = ["serving"]

_MOST_BYTES = 1 << 20
_READ_S = 60.0


@contextmanager
def serving(
    member: Member,
    link: Link,
    listening: socket.socket,
    on_event: Callable[[str, Mapping[str, Any]], None],
) -> Iterator[None]:
    """Serve a member over a link until the end of the block. Raises ``LinkError``."""
    with tempfile.TemporaryDirectory(prefix="hpcqc-site-") as folder:
        path = str(Path(folder) / "site.sock")
        with _Server(path, _asked_of(member, on_event)) as inner:
            threading.Thread(target=inner.serve_forever, args=(0.05,), daemon=True).start()
            front = Front(
                link=link,
                service=Service(address=f"unix:{path}", asks_for_tokens=False),
                on_event=on_event,
            )
            with _front_thread(front, listening):
                yield
            inner.shutdown()


@contextmanager
def _front_thread(front: Front, listening: socket.socket) -> Iterator[None]:
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    faults: list[BaseException] = []
    task = loop.create_task(front.serve(listening, ready.set))

    def run() -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001 - it is raised in the thread that waits
            faults.append(error)
        finally:
            ready.set()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait()
    if faults:
        raise faults[0]
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _asked_of(
    member: Member, on_event: Callable[[str, Mapping[str, Any]], None]
) -> type[BaseHTTPRequestHandler]:
    class Asked(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = _READ_S

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            if not size.isdigit() or int(size) > _MOST_BYTES:
                self.close_connection = True
                self._send(
                    413, {"detail": f"a message has a length of at most {_MOST_BYTES} bytes"}
                )
                return
            phase = self.path.removeprefix("/")
            status, answer = _answered(member, phase, self.rfile.read(int(size)))
            if status != 200:
                on_event("refused", {"phase": phase[:40], **answer})
            self._send(status, answer)

        def address_string(self) -> str:
            return "link"

        def log_message(self, *_words: object) -> None:
            pass

        def _send(self, status: int, answer: Mapping[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Asked


def _answered(member: Member, phase: str, content: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and answer. Words of errors that are not ours could quote data."""
    try:
        message = json.loads(content)
        if not isinstance(message, dict):
            raise MaskingError("a message is a JSON object")
        return 200, member.answer(phase, message)
    except MaskingError as error:
        return 409, {"detail": str(error)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return 400, {"detail": f"a message that cannot be read: {type(error).__name__}"}
    except Exception as error:  # noqa: BLE001 - the site's QPU, say; it serves on
        return 500, {"detail": f"this site cannot do it now: {type(error).__name__}"}
