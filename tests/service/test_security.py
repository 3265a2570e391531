"""What docs/explanation/security.md promises, sentence by sentence."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from starlette.responses import StreamingResponse

from backends.frames import pack, unpack
from orchestrator.broker.api import endpoints, jobs
from orchestrator.broker.api.admission import RequestLimits
from orchestrator.broker.api.jobs import _download
from orchestrator.broker.client.content_digest import content_digest
from tests.service.calls import bell, job_head
from tests.service.rooms import Room, open_room, room

__all__ = ["room"]

ASKED = {"run": "r", "qpu": "fake"}


def test_tokens_are_kept_as_hashes_that_only_the_owner_reads(room: Room) -> None:
    text = room.tokens.path.read_text()
    assert stat.S_IMODE(room.tokens.path.stat().st_mode) == 0o600
    for header in room.headers.values():
        for secret in header.values():
            assert secret.removeprefix("Bearer ") not in text


def test_a_token_is_in_no_answer_ledger_or_log(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = room.headers["owner"]["Authorization"].removeprefix("Bearer ")
    sent = {"asked": ASKED, "headers": room.headers["owner"]}
    answers = [
        room.http.post("/v1/jobs", content=bell().to_bytes(), **sent),
        room.http.post("/v1/jobs", content=b"no payload", **sent),
        room.http.get("/v1/whoami", headers={"Authorization": f"Bearer x{secret}"}),
        room.http.get("/v1/jobs/nonsense", headers=room.headers["owner"]),
    ]
    assert [answer.status_code for answer in answers] == [201, 422, 401, 422]
    assert not any(secret in answer.text for answer in answers)
    assert secret not in caplog.text
    for file in room.state.glob("ledger.db*"):
        assert secret.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ('"run": "other"', "'run' is given 2 times"),
        ('"lease": {"id": "a", "id": "b", "longest_s": 1, "idle_s": 1}', "'id' is given 2 times"),
        ('"lease": {"id": "a", "longest_s": Infinity, "idle_s": 1}', "finite"),
        ('"call": true', "integer"),
        ('"call": "3"', "integer"),
        ('"may_reuse": "yes"', "boolean"),
        ('"run": ' + "[" * 20_000, "JSON"),
    ],
)
def test_an_ambiguous_request_is_refused(room: Room, asked: str, words: str) -> None:
    head = {"Job-Request": f'{{"run": "r", "qpu": "fake", {asked}}}'}
    answer = room.http.post(
        "/v1/jobs", content=bell().to_bytes(), headers=room.headers["owner"] | head
    )
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_health_tells_strangers_neither_paths_nor_people(room: Room) -> None:
    answer = room.http.get("/health")
    assert str(room.state) not in answer.text
    assert not {"ada", "bob", "chem"} & set(json.dumps(answer.json()).split('"'))


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2f..%2fhost.py",
        "/swagger//etc/passwd",
    ],
)
def test_pages_serve_their_own_folder_alone(room: Room, path: str) -> None:
    assert room.http.get(path).status_code in (401, 404, 405)


def test_names_cannot_break_out_of_a_header(room: Room) -> None:
    asked = ASKED | {"run": "r\r\nSet-Cookie: a=b"}
    answer = room.http.post(
        "/v1/jobs", asked=asked, content=bell().to_bytes(), headers=room.headers["owner"]
    )
    assert "set-cookie" not in answer.headers
    assert "\n" not in answer.headers.get("location", "")


def test_bodies_are_neither_compressed_nor_larger_than_allowed(tmp_path: Path) -> None:
    with open_room(tmp_path, limits=RequestLimits(body_bytes=1000)) as small:
        sent = {"asked": ASKED, "headers": small.headers["owner"]}
        assert small.http.post("/v1/jobs", content=bytes(1001), **sent).status_code == 413
        zipped = small.headers["owner"] | {"Content-Encoding": "gzip"}
        answer = small.http.post("/v1/jobs", asked=ASKED, content=b"x", headers=zipped)
        assert answer.status_code == 415


def test_a_long_path_is_looked_for_nowhere(room: Room) -> None:
    """Of a stranger too: to look for a file of so many folders takes a tenth of a second."""
    for path in ("/static/" + "a/" * 30_000, "/swagger/" + "%2e" * 20_000, "/v1/" + "a/" * 30_000):
        assert room.http.get(path).status_code == 414


def test_a_user_has_few_large_bodies_under_way_and_small_ones_pass(tmp_path: Path) -> None:
    begun, go = [], asyncio.Event()

    async def large(number: int) -> AsyncIterator[bytes]:
        begun.append(number)
        yield b"x"
        await go.wait()

    async def ask(room: Room) -> None:
        async def send(content: bytes | AsyncIterator[bytes], who: str) -> int:
            sent = {"headers": room.headers[who] | job_head(), "content": content}
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(room.app), base_url="http://localhost"
            ) as client:
                return (await client.post("/v1/jobs", **sent)).status_code

        waiting = [asyncio.create_task(send(large(number), "owner")) for number in range(5)]
        assert await send(b"small", "owner") == 422
        other = asyncio.create_task(send(large(5), "other"))
        while 5 not in begun:
            await asyncio.sleep(0)
        assert begun == [0, 1, 5]
        go.set()
        assert await asyncio.gather(*waiting, other) == [422] * 6

    with open_room(tmp_path, limits=RequestLimits(large_bodies=2)) as room:
        room.http.wait(ask(room))
        assert not room.app.state.callers.large_bodies._users


def test_a_user_has_two_long_lists_made_at_a_time(tmp_path: Path) -> None:
    at_work, most, go = 0, 0, asyncio.Event()

    async def slow(*_: object) -> list[object]:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await go.wait()
        at_work -= 1
        return []

    async def ask(room: Room) -> None:
        transport = httpx.ASGITransport(room.app)
        headers = room.headers["owner"]
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            asked = [
                asyncio.create_task(client.get(path, headers=headers))
                for path in ("/v1/jobs", "/v1/timeline", "/v1/statement") * 3
            ]
            assert (await client.get("/v1/whoami", headers=headers)).status_code == 200
            while at_work < 2:
                await asyncio.sleep(0)
            go.set()
            assert [one.status_code for one in await asyncio.gather(*asked)] == [200] * 9

    with open_room(tmp_path) as room:
        room.app.state.broker.jobs = slow
        room.http.wait(ask(room))
    assert most == 2


def test_each_user_has_a_rate_whatever_their_tokens(tmp_path: Path) -> None:
    with open_room(tmp_path, limits=RequestLimits(requests_per_s=0.01, burst=3)) as slow:
        found = [
            slow.http.get("/v1/whoami", headers=slow.headers["owner"]).status_code for _ in range(4)
        ]
        assert found == [200, 200, 200, 429]
        assert slow.http.get("/v1/whoami", headers=slow.headers["other"]).status_code == 200


def test_a_body_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    async def drops() -> AsyncIterator[bytes]:
        for _ in range(3000):
            yield b"x"
            await asyncio.sleep(0.1)

    for limits in (RequestLimits(body_s=0.02), RequestLimits(whole_body_s=0.3)):
        with open_room(tmp_path, limits=limits) as room:
            sent = {"asked": ASKED, "headers": room.headers["owner"]}
            for path in ("/v1/jobs", "/v1/budgets/runs", "/v1/whoami"):
                answer = room.http.post(path, content=drops(), **sent)
                told = (answer.status_code, answer.json()["detail"])
                assert told == (408, "the body came too slowly")


class _Trap:
    """Unpickled, it makes a file."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._place,))


def test_nothing_is_unpickled(room: Room, tmp_path: Path) -> None:
    trap = pickle.dumps(_Trap(tmp_path / "sprung"))
    pickle.loads(trap)  # it works
    (tmp_path / "sprung").unlink()
    whole = bell().to_bytes()
    for body in (trap, whole + trap, whole.replace(b"QISKIT", trap[:6]), _swapped(whole, trap)):
        sent = {"asked": ASKED, "headers": room.headers["owner"]}
        assert room.http.post("/v1/jobs", content=body, **sent).status_code == 422
    assert not (tmp_path / "sprung").exists()


def _swapped(whole: bytes, trap: bytes) -> bytes:
    """Put a pickle where a payload has its circuit."""
    header, frames = unpack(whole)
    return pack(header, [trap, *frames[1:]])


def test_a_body_of_json_is_small_and_a_stranger_s_is_not_read(room: Room) -> None:
    read = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield bytes(1 << 10)

    for caller, status, most in (("nobody", 401, 0), ("bad", 401, 0), ("owner", 413, 66)):
        read = 0
        answer = room.http.post("/v1/budgets/runs", content=chunks(), headers=room.headers[caller])
        assert answer.status_code == status
        assert read <= most
        stated = room.headers[caller] | {"Content-Length": str(1 << 30)}
        answer = room.http.post("/v1/budgets/runs", content=b"{}", headers=stated)
        assert answer.status_code == status
    for path in ("/health", "/", "/static/status.js"):
        assert room.http.request("GET", path, content=b"x").status_code == 413


def test_a_large_result_waits_for_its_reader_in_a_file() -> None:
    data = bytes(range(256)) * 8192

    async def downloaded() -> tuple[dict[str, str], bytes]:
        answer = await _download(data)
        assert isinstance(answer, StreamingResponse)
        found = [bytes(part) async for part in answer.body_iterator]  # type: ignore[arg-type]
        return dict(answer.headers), b"".join(found)

    headers, found = asyncio.run(downloaded())
    assert found == data
    assert headers["content-digest"] == content_digest(data)
    assert headers["content-length"] == str(len(data))


def test_a_disk_without_room_refuses_bodies_and_withholds_no_result(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> IO[bytes]:
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(endpoints, "SpooledTemporaryFile", full)
    answer = room.http.post(
        "/v1/jobs", asked=ASKED, content=bytes(1 << 16), headers=room.headers["owner"]
    )
    assert (answer.status_code, answer.json()["error_type"]) == (507, "StorageFull")
    monkeypatch.setattr(jobs, "TemporaryFile", full)
    data = bytes(1 << 20)
    assert asyncio.run(_download(data)).body == data


def test_a_fault_of_the_broker_is_a_problem_document_without_its_words(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("secret of /var/lib/hpcqc")

    monkeypatch.setattr(room.app.state.broker, "status", fails)
    for path in ("/v1/qpus", "/health"):
        answer = room.http.get(path, headers=room.headers["owner"])
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {
            "type": "about:blank",
            "title": "Internal Server Error",
            "status": 500,
            "detail": "the broker failed on this request; its log says why",
            "error_type": "Fault",
        }


def test_what_a_vendor_says_of_a_broken_qpu_is_for_operators_alone(tmp_path: Path) -> None:
    with open_room(tmp_path, vendor_says="login with key s3cr3t-of-the-site failed") as room:
        for caller, told in (("owner", False), ("operator", True)):
            headers = room.headers[caller]
            answers = [
                room.http.get("/v1/qpus", headers=headers),
                room.http.get("/v1/qpus/broken/target", headers=headers),
                room.http.post(
                    "/v1/jobs", asked=ASKED | {"qpu": "broken"}, headers=headers, content=b"x"
                ),
                room.http.get("/health"),
            ]
            states = {qpu["name"]: qpu["state"] for qpu in answers[0].json()}
            assert states == {"fake": "online", "broken": "unavailable"}
            assert answers[1].status_code == 503
            assert ("s3cr3t" in answers[0].text) is told
            assert not any("s3cr3t" in answer.text for answer in answers[1:])
