"""Coordinators and sites that do wrong: what they learn of one site's data, and whom they stop."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("OpenSSL", reason="the links extra is not installed")

from cryptography.hazmat.primitives.serialization import load_pem_private_key

from flows._federated.asking import Sites
from flows._federated.coordinator import Coordinator, FederationStopped, Sum
from flows._federated.masking import MaskingError, bytes_of
from flows._federated.member import PHASES, Member, pair_mask
from flows._federated.models import PrivacyNoise, SiteTraining, initial
from flows._federated.patients import as_text, generated, parsed
from flows._federated.serving import _front_thread
from flows._federated.site import SiteWork
from flows.federated import _check_counts
from orchestrator.links.certificates import certify
from orchestrator.links.front import Front, Service, open_port
from tests.certificates import signed
from tests.errors import naming
from tests.flows.federation import SITES, Hall
from tests.patience import PATIENCE_S


class Liar:
    """A coordinator with the right certificate that asks each site for what it likes."""

    def __init__(self, hall: Hall, number: int = 1) -> None:
        self.members, self.head = hall.members, {"federation": "f", "round": number}

    def say(self, site: str, phase: str, **more: Any) -> dict[str, Any]:
        return self.members[site].answer(phase, {**self.head, **more})

    def seal(self) -> None:
        keys = {site: self.say(site, "keys") for site in SITES}
        self.sealed = {site: self.say(site, "seal", members=keys)["ciphertexts"] for site in SITES}

    def update(self, site: str, task: Mapping[str, Any] | None = None) -> Any:
        ciphertexts = {other: self.sealed[other][site] for other in SITES if other < site}
        asked = {"task": task or {"kind": "test"}, "ciphertexts": ciphertexts}
        return np.frombuffer(bytes_of(self.say(site, "update", **asked)["masked"]), dtype="<u8")

    def survivors(self, *left: str, at: tuple[str, ...]) -> dict[str, str]:
        return {site: self.say(site, "survivors", survivors=list(left))["signature"] for site in at}


def test_signatures_of_an_earlier_round_open_no_later_one(hall: Hall) -> None:
    """With both kinds of masks of one site, a coordinator would read its update."""
    first = Liar(hall)
    first.seal()
    for site in SITES:
        first.update(site)
    earlier = first.survivors(*SITES, at=SITES)
    for number in range(8):  # until the sites have forgotten the round
        for member in hall.members.values():
            member.answer("keys", {"federation": f"other {number}", "round": 1})
    again = Liar(hall)
    again.seal()
    masked = {site: again.update(site) for site in SITES}
    of_two = again.survivors("three", "two", at=("three", "two"))
    without = {
        site: again.say(site, "unmask", signatures=of_two)["gone"]["one"]
        for site in ("three", "two")
    }
    own = again.survivors(*SITES, at=("one",))
    with pytest.raises(MaskingError, match="not signed"):
        again.say("one", "unmask", signatures={**earlier, **own})
    # What it has got so far leaves the site's own mask.
    rest = masked["one"].astype(np.uint64)
    for site, seed in without.items():
        rest = rest - pair_mask(bytes_of(seed), 6, "one", site)
    assert not np.any(rest.astype(np.int64) == (hall.vectors["one"] * 2**24).astype(np.int64))


def test_a_sum_in_which_others_did_another_task_stays_masked(hall: Hall) -> None:
    """Others' updates would be known beforehand, as of no step, and one site's would be left."""
    liar = Liar(hall)
    liar.seal()
    liar.update("one", {"kind": "test", "of": "interest"})
    for site in ("three", "two"):
        liar.update(site)
    signatures = liar.survivors(*SITES, at=SITES)
    for site in SITES:
        with pytest.raises(MaskingError, match="not signed"):
            liar.say(site, "unmask", signatures=signatures)


def member_of(hall: Hall, **changed: Any) -> Member:
    link = replace(hall.own["one"], peers=changed.pop("peers", ("coordinator",)))
    usual: dict[str, Any] = {"members": SITES, "least": 2, "work": lambda _task: np.zeros(2)}
    return Member(link, name="one", **(usual | changed))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"peers": ()}, ("peers", "one")),
        ({"members": (*SITES, "coordinator")}, ("coordinator", "member")),
        ({"members": ("three", "two")}, ("one", "missing")),
        ({"least": 1}, (1, 2)),
        ({"least": 4}, (4, 3)),
    ],
)
def test_a_federation_in_which_a_sum_could_be_of_one_site_is_not_entered(
    hall: Hall, changed: dict[str, Any], named: tuple[Any, ...]
) -> None:
    with pytest.raises(MaskingError, match=naming(*named)):
        member_of(hall, **changed)


def test_nobody_counts_as_two_sites_and_no_coordinator_as_one(hall: Hall) -> None:
    key = load_pem_private_key((hall.folder / "two.key").read_bytes(), None)
    twice = signed(hall.folder, "three-again", ["three"], key=key)  # type: ignore[arg-type]
    posing = signed(hall.folder, "posing", ["three", "coordinator"])
    for number, (named, files, words) in enumerate(
        [
            ("three", (twice.certificate, twice.key), ("three", "two", "same key")),
            ("three", (posing.certificate, posing.key), ("three", "coordinator's")),
            (
                "stranger",
                (hall.folder / "stranger.pem", hall.folder / "stranger.key"),
                ("stranger",),
            ),
        ]
    ):
        link = replace(hall.own["one"], certificate=files[0], key=files[1])
        other = Member(
            link, name=named, members=(*SITES, "stranger"), least=2, work=lambda _task: np.zeros(2)
        )
        liar = Liar(hall, number)
        keys = {"one": liar.say("one", "keys"), "two": liar.say("two", "keys")}
        keys[named] = other.answer("keys", liar.head)
        with pytest.raises(MaskingError, match=naming(*words)):
            liar.say("one", "seal", members=keys)


def test_a_site_says_nothing_of_its_update_by_refusing(hall: Hall) -> None:
    """Whether it is large would be one answer without a mask, which can be asked again and again."""
    hall.vectors["two"] = np.array([np.inf, -np.inf, np.nan, 1e300, -1e300, 3.0])
    found = hall.total()
    assert found.sites == SITES
    bound = 2.0**18
    others = hall.vectors["one"] + hall.vectors["three"]
    assert np.array_equal(found.values - others, [bound, -bound, 0.0, bound, -bound, 3.0])


@pytest.mark.parametrize(
    ("phase", "answer"),
    [
        ("keys", {}),
        ("keys", {"keys": {"x25519": 1}, "certificate": "", "signature": ""}),
        ("seal", {"ciphertexts": {"two": 3}}),
        ("seal", {"ciphertexts": {"three": {"sealed": "", "signature": ""}}}),
        ("update", {"round": 1, "masked": {}, "signature": []}),
        ("survivors", {"signature": "AAAA"}),
        ("unmask", {"own": "AAAA", "gone": []}),
    ],
)
def test_a_site_that_answers_nonsense_is_left_out_or_stops_the_sum(
    hall: Hall, phase: str, answer: dict[str, Any]
) -> None:
    hall.members["one"].instead = lambda asked, said: answer if asked == phase else said
    if phase in ("survivors", "unmask"):
        with pytest.raises(FederationStopped, match=naming("one", "stays masked")):
            hall.total()
        return
    found = hall.total()
    assert (found.sites, list(found.gone)) == (("three", "two"), ["one"])
    assert np.array_equal(found.values, hall.vectors["three"] + hall.vectors["two"])


def test_an_update_of_another_size_or_model_is_left_out(hall: Hall) -> None:
    hall.vectors["two"] = np.zeros(7)
    found = hall.total()
    assert (found.sites, list(found.gone)) == (("one", "three"), ["two"])
    assert "expected 48" in found.gone["two"]


def test_a_lost_answer_is_asked_for_once_more(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the survivors have signed, an idle connection that broke would end the flow."""
    posted, lost = Sites._posted, dict.fromkeys(PHASES, 1)

    def lose(sites: Sites, site: str, phase: str, message: Any, patience_s: float) -> Any:
        answered = posted(sites, site, phase, message, patience_s)
        if site == "two" and lost[phase]:
            lost[phase] -= 1
            raise httpx.ReadError("gone")
        return answered

    monkeypatch.setattr(Sites, "_posted", lose)
    found = hall.total()
    assert (found.sites, set(lost.values())) == (SITES, {0})
    assert np.array_equal(found.values, sum(hall.vectors.values()))
    lost["keys"] = 9
    hall.begin_anew()
    assert (list(hall.total().gone), lost["keys"]) == (["two"], 7)


def test_two_coordinators_do_not_disturb_each_other(hall: Hall) -> None:
    meeting = threading.Barrier(2, timeout=60)

    def asked(federation: str) -> list[Sum]:
        with Coordinator(
            links=hall.links,
            federation=federation,
            least=2,
            on_phase=lambda _number, _phase: meeting.wait() and None,
        ) as asking:
            return [asking.total({"kind": "test"}, 6) for _ in range(2)]

    with ThreadPoolExecutor(2) as pool:
        for sums in pool.map(asked, ("f", "g")):
            for found in sums:
                assert found.sites == SITES
                assert np.array_equal(found.values, sum(hall.vectors.values()))


def test_a_fault_of_a_site_s_own_is_told_without_its_words(hall: Hall) -> None:
    def fail(phase: str, said: dict[str, Any]) -> dict[str, Any]:
        if phase == "update":
            raise RuntimeError("patient 17 is 63 years old")
        return said

    hall.members["two"].instead = fail
    found = hall.total()
    assert found.sites == ("one", "three")
    assert "RuntimeError" in found.gone["two"]
    assert "63" not in found.gone["two"]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 4000000\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "within_s", "named"),
    [
        ([b"HTTP/1.1 200 OK\r\nX: "] + [b"x"] * 600, 2.0, "in time|does not answer"),
        ([HEAD, b"[" * 2_000_000], PATIENCE_S, "more than"),
        (
            [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"[" * 500_000],
            PATIENCE_S,
            "no JSON object",
        ),
    ],
    ids=["head drop by drop", "huge", "nested"],
)
def test_a_site_that_answers_without_end_does_not_hold_the_coordinator(
    hall: Hall, pieces: list[bytes], within_s: float, named: str
) -> None:
    done = threading.Event()

    def serve(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                with listening.accept()[0] as opened, suppress(OSError):
                    opened.recv(1 << 16)
                    for piece in pieces:
                        opened.sendall(piece)
                        if len(piece) == 1 and done.wait(0.2):
                            return
                    # Closed with a part of the request unread, it would take back what it sent.
                    opened.shutdown(socket.SHUT_WR)
                    while opened.recv(1 << 16):
                        pass

    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        address = "{}:{}".format(*listening.getsockname())
        front = Front(
            link=hall.own["one"],
            service=Service(address=address),
            on_event=lambda _event, _facts: None,
        )
        opened = open_port("127.0.0.1:0")
        far = replace(hall.links["one"], address=f"127.0.0.1:{opened.getsockname()[1]}")
        stack.enter_context(_front_thread(front, opened))
        sites = Sites({"one": far})
        stack.callback(sites.close)
        gone: dict[str, str] = {}
        check: Callable[[str, Mapping[str, Any]], Any] = lambda _site, said: said  # noqa: E731
        assert sites.ask("keys", {"one": {}}, check, gone, within_s) == {}
        done.set()
        listening.shutdown(socket.SHUT_RDWR)
    assert any(word in gone["one"] for word in named.split("|")), gone


PATIENTS = parsed(as_text(generated(0, 60, 3)), "one")
TRAINING = SiteTraining(model="logistic", seed=1, round=0, steps=1, rate=1.0)
CIRCUIT = replace(TRAINING, model="circuit")
WEIGHTS = initial(TRAINING).tolist()


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "read"},
        {"training": None},
        {"training": {}},
        {"training": TRAINING.to_plain() | {"more": 1}},
        {"training": replace(TRAINING, model="forest").to_plain()},  # type: ignore[arg-type]
        {"training": replace(TRAINING, steps=10**9).to_plain()},
        {"training": replace(TRAINING, seed=-1).to_plain()},
        {"training": replace(TRAINING, rate=float("nan")).to_plain()},
        {"training": replace(TRAINING, noise=PrivacyNoise(multiplier=1, clip=-1)).to_plain()},
        {"training": replace(TRAINING, noise=PrivacyNoise(multiplier=1, clip=1e300)).to_plain()},
        {"training": replace(CIRCUIT, qubits=30).to_plain()},
        {"training": replace(CIRCUIT, layers=10**9).to_plain()},
        {"training": CIRCUIT.to_plain(), "shots": 10**15},
        {"weights": WEIGHTS[1:]},
        {"weights": [[0.0]] * len(WEIGHTS)},
        {"weights": [float("nan"), *WEIGHTS[1:]]},
        {"weights": [10**400, *WEIGHTS[1:]]},
        {"weights": {}},
    ],
    ids=lambda changed: str(changed)[:60],
)
def test_a_task_that_is_none_is_refused_before_any_work(changed: dict[str, Any]) -> None:
    def no_circuits(*_asked: int) -> Any:
        raise AssertionError("a circuit was made")

    work = SiteWork(PATIENTS, no_circuits)
    task = {"kind": "train", "training": TRAINING.to_plain(), "weights": WEIGHTS}
    assert work(task).size == len(WEIGHTS) + 1
    with pytest.raises(MaskingError):
        work({**task, **changed})


@pytest.mark.parametrize(
    ("kind", "values"),
    [("train", [0.0, -5.0]), ("train", [0.0, 0.0]), ("test", [9.0, 8.0]), ("test", [-1.0, 8.0])],
)
def test_a_sum_of_no_patients_stops_the_flow(kind: str, values: list[float]) -> None:
    found = Sum(values=np.array(values), sites=SITES, gone={})
    with pytest.raises(FederationStopped, match=naming("one", "three", "two")):
        _check_counts(kind, 1, found)
    _check_counts(kind, 1, replace(found, values=np.array([4.0, 8.0])))


def test_a_bundle_of_authorities_is_read_whole(hall: Hall, tmp_path: Path) -> None:
    """As while an authority is replaced by another."""
    certify(tmp_path / "other", ["any"], days=1, now=datetime.now(UTC))
    bundle = tmp_path / "both.pem"
    pems = [folder / "authority.pem" for folder in (tmp_path / "other", hall.folder)]
    bundle.write_bytes(b"".join(pem.read_bytes() for pem in pems))
    links = {site: replace(link, authority=bundle) for site, link in hall.links.items()}
    with Coordinator(links=links, federation="f", least=2) as asking:
        assert asking.total({"kind": "test"}, 6).sites == SITES
