"""A server on this machine that speaks enough of D-Wave's Solver API, version 3.

Learnt from dwave-cloud-client 0.14. Assumed, since no source of the service is public: that
``GET /problems/?label=`` matches whole labels at once, that cancelling an ended problem answers 409,
and that a solver's graph has an id that changes with it.
"""

from __future__ import annotations

import base64
import json
import threading
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import dimod
import numpy as np
from dwave.samplers import SimulatedAnnealingSampler

TOKEN = "DEV-0123456789abcdef"
_TYPE = "application/vnd.dwave.sapi.{}+json; version=3.0.0"
_SIDE = 4  # cells of the chip


def chimera(side: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Cells of K4,4 on a square lattice; one qubit is broken."""
    broken = 5

    def qubit(row: int, column: int, half: int, place: int) -> int:
        return 8 * (side * row + column) + 4 * half + place

    couplers = []
    for row in range(side):
        for column in range(side):
            for a in range(4):
                couplers += [(qubit(row, column, 0, a), qubit(row, column, 1, b)) for b in range(4)]
                if row + 1 < side:
                    couplers.append((qubit(row, column, 0, a), qubit(row + 1, column, 0, a)))
                if column + 1 < side:
                    couplers.append((qubit(row, column, 1, a), qubit(row, column + 1, 1, a)))
    qubits = [number for number in range(8 * side * side) if number != broken]
    return qubits, [pair for pair in couplers if broken not in pair]


class Sapi:
    """Problems of one solver. Faults of submissions, one for each: lost, doubled, 429, 503, 500.

    unlisted: labels whose problems lists leave out. redirect: where all requests are sent on to.
    falsified: in the place of parts of an answer. raw: headers and a body that all questions get.
    """

    def __init__(self) -> None:
        self.qubits, self.couplers = chimera(_SIDE)
        self.problems: dict[str, dict[str, Any]] = {}
        self.faults: list[str] = []
        self.unlisted: set[str] = set()
        self.requests: list[str] = []
        self.redirect = ""
        self.falsified: dict[str, Any] = {}
        self.raw: tuple[dict[str, str], bytes] | None = None
        self.lock = threading.RLock()
        self.work = ThreadPoolExecutor(1)

    def solver(self) -> dict[str, Any]:
        return {
            "identity": {"name": "Chip4", "version": {"graph_id": "01a"}},
            "status": "online",
            "description": "a small annealer",
            "avg_load": 0.1,
            "properties": {
                "category": "qpu",
                "supported_problem_types": ["ising", "qubo"],
                "parameters": {"num_reads": None, "answer_mode": None, "annealing_time": None},
                "num_qubits": 8 * _SIDE * _SIDE,
                "qubits": self.qubits,
                "couplers": self.couplers,
                "num_reads_range": [1, 1000],
                "h_range": [-4.0, 4.0],
                "j_range": [-1.0, 1.0],
                "topology": {"type": "chimera", "shape": [_SIDE, _SIDE, 4]},
                "tags": [],
                "problem_run_duration_range": [0.0, 1e6],
                "default_annealing_time": 20.0,
                "default_readout_thermalization": 0.0,
                "default_programming_thermalization": 1000.0,
            },
        }

    def submit(self, stated: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            problem = {
                "id": str(uuid.uuid4()),
                "type": stated["type"],
                "solver": stated["solver"],
                "label": stated.get("label"),
                "status": "PENDING",
                "submitted_on": datetime.now(UTC).isoformat(),
            }
            self.problems[problem["id"]] = problem
        self.work.submit(self._solve, problem, stated)
        return self.stated(problem)

    def stated(self, problem: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in problem.items() if key != "answer"}

    def cancel(self, problem: dict[str, Any]) -> int:
        with self.lock:
            if problem["status"] != "PENDING":
                return 409
            problem["status"] = "CANCELLED"
            return 200

    def _solve(self, problem: dict[str, Any], stated: dict[str, Any]) -> None:
        with self.lock:
            if problem["status"] != "PENDING":
                return
            problem["status"] = "IN_PROGRESS"
        try:
            answer = self._answer(stated["data"], stated["params"]["num_reads"])
        except Exception as error:  # noqa: BLE001  # the problem has failed
            problem.update(status="FAILED", error_message=repr(error))
            return
        with self.lock:
            problem.update(status="COMPLETED", answer=answer)
            problem["solved_on"] = datetime.now(UTC).isoformat()

    def _answer(self, data: dict[str, Any], reads: int) -> dict[str, Any]:
        fields = np.frombuffer(base64.b64decode(data["lin"]), dtype="<f8")
        active = [q for q, field in zip(self.qubits, fields, strict=True) if not np.isnan(field)]
        strengths = np.frombuffer(base64.b64decode(data["quad"]), dtype="<f8")
        pairs = [(a, b) for a, b in self.couplers if a in active and b in active]
        model = dimod.BinaryQuadraticModel(
            {q: h for q, h in zip(self.qubits, fields, strict=True) if not np.isnan(h)},
            dict(zip(pairs, strengths, strict=True)),
            data.get("offset", 0.0),
            "SPIN",
        )
        found = SimulatedAnnealingSampler().sample(model, num_reads=reads, seed=7).aggregate()
        order = np.argsort(found.record.energy)
        places = [list(found.variables).index(qubit) for qubit in active]
        bits = (found.record.sample[order][:, places] + 1) // 2
        return {
            "format": "qp",
            "active_variables": _text(np.array(active), "<i4"),
            "energies": _text(found.record.energy[order], "<f8"),
            "num_occurrences": _text(found.record.num_occurrences[order], "<i4"),
            "solutions": _text(np.packbits(bits.astype(np.uint8), axis=1), "u1"),
            "num_variables": 8 * _SIDE * _SIDE,
            "timing": {"qpu_access_time": 20_000 + 100 * reads, "qpu_sampling_time": 100 * reads},
        }


def _text(array: Any, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array).astype(dtype).tobytes()).decode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    sapi: Sapi

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.sapi.raw is not None:
            headers, body = self.sapi.raw
            self._raw(200, body, headers)
            return
        path, query = self._place()
        problem = self.sapi.problems.get(path[1]) if len(path) > 1 else None
        if path == ["solvers", "remote", "Chip4"]:
            self._send(200, "solver-definition", self.sapi.solver())
        elif path == ["solvers", "remote"]:
            self._send(200, "solver-definition-list", [self.sapi.solver()])
        elif path == ["problems"]:
            self._send(200, "problems", self._listed(query))
        elif problem is None or path[0] != "problems":
            self._refuse(404, "no such thing")
        elif path[2:] == ["answer"] and "answer" in problem:
            self._send(200, "problem-answer", {"answer": self._answer(problem)})
        elif len(path) == 2:
            answer = {"answer": self._answer(problem)} if "answer" in problem else {}
            self._send(200, "problem", {**problem, **answer})  # with its answer, once there is one
        else:
            self._refuse(404, "no answer yet")

    def do_DELETE(self) -> None:
        if not self._allowed():
            return
        path, _ = self._place()
        problem = self.sapi.problems.get(path[-1])
        if problem is None:
            self._refuse(404, "no such problem")
        elif self.sapi.cancel(problem) == 409:
            self._refuse(409, "it has begun")
        else:
            self._send(200, "problem", self.sapi.stated(problem))

    def do_POST(self) -> None:
        body = self._body()
        if not self._allowed():
            return
        fault = self.sapi.faults.pop(0) if self.sapi.faults else ""
        if fault in ("408", "429", "503"):
            self._refuse(int(fault), "later", {"Retry-After": "7"})
            return
        if fault == "400":
            self._refuse(400, "malformed")
            return
        given = json.loads(body)
        many = isinstance(given, list)
        made = [self.sapi.submit(one) for one in (given if many else [given])]
        if fault == "doubled":
            self.sapi.submit(given)
        if fault in ("doubled", "500"):
            # A code in the body that says otherwise, as a gateway may.
            self._refuse(504 if fault == "doubled" else 500, "gateway", code=400)
        elif fault == "lost":
            self.close_connection = True
        elif fault == "garbage":
            self._raw(200, b"<html>", {"Content-Type": "text/html"})
        else:
            self._send(200, "problems", made if many else made[0])

    def _body(self) -> bytes:
        """Read a body, which the vendor's client compresses and sends in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            body = self.rfile.read(int(self.headers["Content-Length"]))
        else:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return zlib.decompress(body) if self.headers.get("Content-Encoding") == "deflate" else body

    def _answer(self, problem: dict[str, Any]) -> dict[str, Any]:
        return {**problem["answer"], **self.sapi.falsified}

    def _allowed(self) -> bool:
        self.sapi.requests.append(f"{self.command} {self.path}")
        if self.sapi.redirect:
            self._raw(307, b"", {"Location": self.sapi.redirect + self.path})
            return False
        if self.headers.get("X-Auth-Token") == TOKEN:
            return True
        self._refuse(401, "invalid token")
        return False

    def _place(self) -> tuple[list[str], dict[str, list[str]]]:
        parts = urlsplit(self.path)
        return [part for part in parts.path.split("/") if part][2:], parse_qs(parts.query)

    def _listed(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        found = list(self.sapi.problems.values())
        for key in ("label", "status"):
            if key in query:
                found = [one for one in found if one[key] == query[key][0]]
        if "label" in query:
            found = [one for one in found if one["label"] not in self.sapi.unlisted]
        if "id" in query:
            found = [one for one in found if one["id"] in query["id"][0].split(",")]
        return [self.sapi.stated(one) for one in found]

    def _send(self, status: int, kind: str, stated: Any) -> None:
        self._raw(status, json.dumps(stated).encode(), {"Content-Type": _TYPE.format(kind)})

    def _refuse(
        self, status: int, words: str, headers: dict[str, str] | None = None, code: int = 0
    ) -> None:
        body = json.dumps({"error_msg": words, "error_code": code or status}).encode()
        self._raw(status, body, {"Content-Type": "application/json", **(headers or {})})

    def _raw(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # a client need not take a body to its end
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[tuple[str, Sapi]]:
    """Serve on a free port of loopback; yield the endpoint and what is behind it."""
    sapi = Sapi()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"sapi": sapi}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/sapi/v2/", sapi
    finally:
        server.shutdown()
        server.server_close()
        sapi.work.shutdown(cancel_futures=True)
        thread.join()
