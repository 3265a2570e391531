"""What another user of the machine tries on a port; a process of its own, with no rights.

``python intruder.py PORT…`` prints a JSON object: port → what answered there, empty if nothing did.
It imports nothing of ours: an intruder has Dask, sockets and patience.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import threading

import distributed
from distributed import Client, Security
from distributed.comm import connect
from distributed.core import send_recv

HOST = "127.0.0.1"
TRY_S = 5.0
LONGEST_S = 40.0


def ways() -> list[tuple[str, Security]]:
    return [("tcp", Security()), ("tls", Security.temporary())]


async def spoken_to(port: int) -> list[str]:
    """Speak Dask's protocol to a scheduler, worker or nanny, without its key and with another."""
    found = []
    for scheme, security in ways():
        try:
            arguments = security.get_connection_args("client")
            comm = await connect(f"{scheme}://{HOST}:{port}", timeout=TRY_S, **arguments)
            said = await asyncio.wait_for(send_recv(comm, op="identity"), TRY_S)
            found.append(f"{scheme}: a {said['type']} says who it is")
        except (OSError, TimeoutError, TypeError, ValueError, RuntimeError):
            continue
    return found


def ran_code(port: int) -> list[str]:
    """Have a scheduler run a function, as any client may."""
    found = []
    for scheme, security in ways():
        try:
            with Client(
                f"{scheme}://{HOST}:{port}", security=security, timeout=TRY_S, set_as_default=False
            ) as client:
                found.append(f"{scheme}: code ran as {client.run_on_scheduler(os.getuid)}")
        except (OSError, TimeoutError, TypeError, ValueError, RuntimeError):
            continue
    return found


def served(port: int) -> list[str]:
    """Ask for pages."""
    found = []
    for path in ("/", "/status", "/info/main/workers.html", "/sitemap.json", "/metrics", "/health"):
        connection = http.client.HTTPConnection(HOST, port, timeout=TRY_S)
        try:
            connection.request("GET", path)
            found.append(f"http {path}: {connection.getresponse().status}")
        except (OSError, http.client.HTTPException):
            continue
        finally:
            connection.close()
    return found


def in_time(port: int) -> list[str]:
    """Try everything; whatever waits for ever was not answered."""
    found: list[str] = []

    def attempts() -> None:
        found.extend(served(port))
        found.extend(asyncio.run(spoken_to(port)))
        found.extend(ran_code(port))

    trying = threading.Thread(target=attempts, daemon=True)
    trying.start()
    trying.join(LONGEST_S)
    return list(found)


def main() -> None:
    import logging

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    assert distributed is not None
    tried = {port: in_time(port) for port in map(int, sys.argv[1:])}
    print(json.dumps({"uid": os.getuid(), "answers": tried}), flush=True)
    os._exit(0)  # threads that still wait for an answer are left behind


if __name__ == "__main__":
    main()
