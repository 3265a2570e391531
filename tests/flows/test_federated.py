"""Federated sums and the flow of them: what crosses, who vanishes, what is refused."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("OpenSSL", reason="the links extra is not installed")

from flows._federated.circuits import on_qpu
from flows._federated.coordinator import Coordinator, FederationStopped
from flows._federated.masking import MaskingError, RoundKeys, bytes_of, decoded, encoded
from flows._federated.member import PHASES
from flows._federated.models import PrivacyNoise, SiteTraining, initial, noise_for
from flows._federated.patients import FEATURES, Patients, as_text, generated, parsed, read
from flows._federated.processes import LocalSite, local_sites
from flows._federated.site import SiteWork
from flows._inputs import InputError
from flows.federated import _checked, _result, federated
from orchestrator import runs
from orchestrator.config.errors import ConfigError
from orchestrator.config.link_tables import LinkTable
from orchestrator.config.site import Site
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows.federation import SITES, Hall
from tests.patience import until

HEART = Path(__file__).resolve().parents[3] / "shared" / "data" / "heart"


@pytest.mark.usefixtures("run_on")  # which ends the run that is active
def test_sites_of_others_do_not_work_for_an_estimate(site: Site) -> None:
    runs.activate(Run(id="dry", site=site, dry=True))
    with pytest.raises(InputError, match=naming("sites", "estimate without sites")):
        federated.fn(sites="a,b,c")


@pytest.mark.parametrize(
    ("tested", "won"), [((187.0, 187.0), "classical"), ((187.0, 140.0), "neither")]
)
def test_models_are_compared_by_seed_where_they_were_tested_on_the_same_patients(
    tested: tuple[float, float], won: str
) -> None:
    inputs = _checked(
        {name: one.default for name, one in signature(federated.fn).parameters.items()}
    )
    lead = (0.02, 0.03, 0.02, 0.03, 0.02)
    spread = (0.7, 0.8, 0.9, 0.8, 0.7)
    usual = {"untrained": 0.5, "home": 0.7, "gone": {}, "links": {}}
    found = {
        "logistic": [
            usual | {"accuracy": value + more, "tested": tested[0]}
            for value, more in zip(spread, lead, strict=True)
        ],
        "circuit": [usual | {"accuracy": value, "tested": tested[1]} for value in spread],
    }
    alone = {"pooled": 0.8, "alone": 0.7}
    result = _result(inputs, found, {"logistic": [alone] * 5, "circuit": [alone] * 5})
    assert result["comparisons"][0]["won"] == won


def test_sums_are_exact_and_single_updates_are_noise(hall: Hall) -> None:
    found = hall.total()
    assert np.array_equal(found.values, sum(hall.vectors.values()))
    assert (found.sites, found.gone) == (SITES, {})
    crossed = {
        site: next(said["masked"] for phase, _, said in member.said if phase == "update")
        for site, member in hall.members.items()
    }
    for site, text in crossed.items():
        words = np.frombuffer(bytes_of(text), dtype="<u8")
        assert not np.any(words == encoded(hall.vectors[site]))
        with pytest.raises(MaskingError):
            decoded(words)


def test_what_crosses_has_the_same_shape_whatever_the_data_are(hall: Hall) -> None:
    """Names of fields and sizes of texts tell nothing, and no two rounds have a word in common."""

    def shapes(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: shapes(one) for name, one in value.items() if name != "signature"}
        return len(value) if isinstance(value, str) else value

    hall.total()
    first = {site: list(member.said) for site, member in hall.members.items()}
    for site in SITES:
        hall.members[site].said.clear()
        hall.vectors[site] = np.full(6, 1000.0)
    hall.begin_anew()
    hall.total()
    for site in SITES:
        (before, after) = (
            {phase: said for phase, _, said in some}
            for some in (first[site], hall.members[site].said)
        )
        assert tuple(before) == tuple(after) == PHASES
        assert shapes(before) == shapes(after)
        assert before["unmask"]["own"] != after["unmask"]["own"]
        assert set(before["unmask"]) == {"own", "gone"}
        assert before["unmask"]["gone"] == {}


def test_a_site_that_vanishes_before_its_update_is_left_out(hall: Hall) -> None:
    def vanish(phase: str, said: dict[str, Any]) -> dict[str, Any]:
        if phase == "update":
            raise MaskingError("gone")
        return said

    hall.members["two"].instead = vanish
    found = hall.total()
    assert np.array_equal(found.values, hall.vectors["one"] + hall.vectors["three"])
    assert list(found.gone) == ["two"]
    for site in ("one", "three"):  # they reveal the masks shared with it, and none of each other
        (unmasked,) = (said for phase, _, said in hall.members[site].said if phase == "unmask")
        assert list(unmasked["gone"]) == ["two"]
    hall.begin_anew()
    with pytest.raises(FederationStopped, match=naming("two", 3, "--run-id")):
        hall.total(least=3)


def test_a_site_that_vanishes_before_anything_was_sent_costs_a_round(hall: Hall) -> None:
    def vanish(phase: str, said: dict[str, Any]) -> dict[str, Any]:
        if phase == "seal":
            raise MaskingError("gone")
        return said

    hall.members["one"].instead = vanish
    phases: list[tuple[int, str]] = []
    with pytest.raises(FederationStopped, match=naming("one", 3)):
        hall.total(least=3, on_phase=lambda number, phase: phases.append((number, phase)))
    assert [phase for _, phase in phases] == ["keys", "seal"]
    hall.begin_anew()
    found = hall.total(on_phase=lambda number, phase: phases.append((number, phase)))
    assert (found.sites, list(found.gone)) == (("three", "two"), ["one"])
    assert phases[2:] == [(1, "keys"), (1, "seal"), *((2, phase) for phase in PHASES)]


def test_masks_of_another_round_are_refused(hall: Hall) -> None:
    kept: list[dict[str, Any]] = []

    def stale(phase: str, said: dict[str, Any]) -> dict[str, Any]:
        if phase != "update":
            return said
        kept.append(said)
        return kept[0]

    hall.members["three"].instead = stale
    with Coordinator(links=hall.links, federation="f", least=2) as asking:
        assert asking.total({"kind": "test"}, 6).sites == SITES
        second = asking.total({"kind": "test"}, 6)
    assert second.sites == ("one", "two")
    assert np.array_equal(second.values, hall.vectors["one"] + hall.vectors["two"])
    assert "round 1" in second.gone["three"]


def test_masks_of_another_round_under_a_new_signature_make_no_sum(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site that signs what it should not have used is not told from others, but the sum is."""
    member = hall.members["three"]
    update = member._update

    def with_old_masks(current: Any, message: Mapping[str, Any]) -> dict[str, Any]:
        pair_seed = current.keys.pair_seed
        current.keys.pair_seed = lambda peer, sealed, context: pair_seed(peer, sealed, b"old")
        return update(current, message)

    monkeypatch.setattr(member, "_update", with_old_masks)
    with pytest.raises(FederationStopped, match="another round"):
        hall.total()


def test_a_coordinator_cannot_ask_twice_or_name_itself_a_site(hall: Hall) -> None:
    hall.total()
    member = hall.members["one"]
    asked = {phase: message for phase, message, _ in member.said}
    assert member.answer("unmask", asked["unmask"]) == member.said[-1][2]  # a lost answer
    for phase, changed in (
        ("survivors", {**asked["survivors"], "survivors": ["one", "three"]}),
        ("unmask", {**asked["unmask"], "signatures": {}}),
        ("update", {**asked["update"], "task": {"kind": "train"}}),
        ("update", {**asked["update"], "round": 7}),
    ):
        with pytest.raises(MaskingError, match=naming("round")):
            member.answer(phase, changed)


def test_a_site_checks_who_the_others_are_and_who_is_left(hall: Hall) -> None:
    hall.total()
    asked = {phase: message for phase, message, _ in hall.members["one"].said}
    member = hall.members["one"]
    head = {"federation": "new", "round": 1}

    def begun() -> dict[str, Any]:
        member._rounds.clear()
        return {
            "one": member.answer("keys", head),
            "three": hall.members["three"].answer("keys", head),
            "two": hall.members["two"].answer("keys", head),
        }

    members = begun()
    forged = {**members, "two": {**members["two"], "keys": members["three"]["keys"]}}
    with pytest.raises(MaskingError, match="not signed"):
        member.answer("seal", {**head, "members": forged})
    members = begun()
    posing = {**members, "two": members["three"]}
    with pytest.raises(MaskingError, match="another site"):
        member.answer("seal", {**head, "members": posing})
    members = begun()
    with pytest.raises(MaskingError, match="at least 2"):
        member.answer("seal", {**head, "members": {"one": members["one"]}})
    member.answer("seal", {**head, "members": members})
    ciphertexts = dict.fromkeys(asked["update"]["ciphertexts"], "")
    member.answer("update", {**head, "task": {"kind": "test"}, "ciphertexts": ciphertexts})
    with pytest.raises(MaskingError, match="more than half"):
        member.answer("survivors", {**head, "survivors": ["one"]})
    member.answer("survivors", {**head, "survivors": ["one", "two"]})
    with pytest.raises(MaskingError, match="not signed"):
        member.answer("unmask", {**head, "signatures": {"one": "", "two": ""}})


@pytest.mark.parametrize("body", [b"[]", b"{", b"{}", b'{"federation": 1}', b"[" * 5000])
def test_garbage_is_answered_and_harms_nobody(hall: Hall, body: bytes) -> None:
    with Coordinator(links=hall.links, federation="f", least=2) as asking:
        answer = asking.sites._clients["one"].post("/update", content=body)
        assert answer.status_code in (400, 409)
        assert "detail" in answer.json()
        assert asking.total({"kind": "test"}, 6).sites == SITES


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, LocalSite]]:
    """Three sites on three ports, each a process of its own."""
    data = {name: as_text(generated(at, 60, 3)) for at, name in enumerate(SITES)}
    folder = tmp_path_factory.mktemp("sites")
    (folder / "certificates").mkdir()  # an attempt that was killed as it made them
    for left in ("authority.pem", "authority.key", "one.key"):
        (folder / "certificates" / left).touch()
    qpu = {"backend": "aer", "accepts": ["personal"]}
    with local_sites(
        folder, data, qpu=qpu, least=2, noise_seed=None, labels=("personal",)
    ) as started:
        yield {one.name: one for one in started}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_sites_that_others_started_learn_together(processes, run_on, kept) -> None:
    """As hospitals do, each with a process of its own; nothing is pooled."""
    active: Run = run_on("aer")
    tables = {
        name: LinkTable(
            address=one.link.address,
            certificate=one.link.certificate,
            key=one.link.key,
            authority=one.link.authority,
        )
        for name, one in processes.items()
    }
    active.site = active.site.model_copy(update={"links": tables})
    few = {"rounds": 1, "steps": 1, "seeds": 2, "batch": 8, "shots": 64, "qubits": 3, "layers": 1}
    with pytest.raises(ConfigError, match=naming("elsewhere")):
        federated(sites="one,two,elsewhere", **few)
    result = kept(federated(sites="one, three, two", **few))
    assert (result["hospitals"], result["patients"]) == (list(SITES), None)
    assert (result["pooled"], result["alone"]) == (None, None)
    assert [row[0] for row in result["table"]["rows"]] == [
        "the logistic regression, federated",
        "the circuit, federated",
    ]
    assert 0.5 < result["home"]["value"] <= 1
    assert set(result["links"]) == set(SITES)


@pytest.mark.slow
def test_sites_hang_come_back_and_are_killed_in_the_middle(processes) -> None:
    """With two left sums go on, or stop by the rule; a late site's masks are of no other round."""
    data = {name: as_text(generated(at, 60, 3)) for at, name in enumerate(SITES)}
    training = SiteTraining(model="logistic", seed=1, round=0, steps=2, rate=1.0)
    task = {"kind": "train", "training": training.to_plain(), "weights": [0.0] * 23}
    work = {name: SiteWork(parsed(data[name], name), None)(task) for name in SITES}
    victim = processes["two"].process
    assert len({one.link.address for one in processes.values()}) == 3
    todo: dict[str, Callable[[], None]] = {}

    def on_phase(_number: int, phase: str) -> None:
        todo.pop(phase, lambda: None)()

    def kill() -> None:
        victim.send_signal(signal.SIGKILL)
        victim.wait()

    links = {name: one.link for name, one in processes.items()}
    with Coordinator(
        links=links, federation="f", least=2, patience_s=10, on_phase=on_phase
    ) as asking:
        whole = asking.total(task, 24)
        assert whole.sites == SITES
        assert whole.values == pytest.approx(sum(work.values()), abs=1e-6)
        todo["update"] = lambda: victim.send_signal(signal.SIGSTOP)
        rest = asking.total(task, 24)
        assert (rest.sites, list(rest.gone)) == (("one", "three"), ["two"])
        assert rest.values == pytest.approx(work["one"] + work["three"], abs=1e-6)
        victim.send_signal(signal.SIGCONT)
        until(lambda: asking.total(task, 24).sites == SITES)
        todo["unmask"] = kill
        with pytest.raises(FederationStopped, match=naming("two", "stays masked", "--run-id")):
            asking.total(task, 24)
        rest = asking.total(task, 24)
        assert (rest.sites, list(rest.gone)) == (("one", "three"), ["two"])
        assert {facts.group for facts in asking.facts().values()} == {"X25519MLKEM768"}
    with (
        Coordinator(links=links, federation="g", least=3) as asking,
        pytest.raises(FederationStopped, match=naming("two", "nothing was unmasked")),
    ):
        asking.total(task, 24)


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_the_flow_says_who_won_and_keeps_the_data_at_home(run_on, kept) -> None:
    """With noise of a device, at sites that the flow starts."""
    active: Run = run_on("vlq")
    result = kept(federated(rounds=1, steps=1, seeds=2, batch=8, shots=64, qubits=3, layers=1))
    assert result["summary"][0].startswith(("Nobody won", "The "))
    assert len(result["table"]["rows"]) == 6
    assert {one["group"] for one in result["links"].values()} == {"X25519MLKEM768"}
    assert result["gone"] == {}
    assert 0.6 < result["pooled"]["logistic"]["value"] < 0.95
    assert not (active.site.state_dir / "federations" / active.id).exists()


def test_a_coordinator_cannot_seal_a_secret_of_its_own(hall: Hall) -> None:
    """With one it would need to break X25519 alone to read an update that it has recorded."""
    head = {"federation": "new", "round": 1}
    members = {site: hall.members[site].answer("keys", head) for site in SITES}
    seal = {**head, "members": members}
    sealed = {site: hall.members[site].answer("seal", seal)["ciphertexts"] for site in SITES}
    right = {"one": sealed["one"]["two"], "three": sealed["three"]["two"]}
    _, own = RoundKeys().seal(members["two"]["keys"])
    task = {**head, "task": {"kind": "test"}}
    for wrong in (
        {**right["one"], "sealed": own},
        sealed["one"]["three"],
        {"sealed": own},
        own,
        None,
    ):
        with pytest.raises(MaskingError):
            hall.members["two"].answer("update", {**task, "ciphertexts": {**right, "one": wrong}})
    assert hall.members["two"].answer("update", {**task, "ciphertexts": right})["masked"]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"seeds": 1}, ("seeds", 1)),
        ({"qubits": 9}, ("qubits", 9, 6)),
        ({"privacy": 0.0}, ("privacy", 0.0)),
        ({"least": 5}, (4, 5)),
        ({"data": "/nowhere"}, ("/nowhere",)),
        ({"data": ".", "sites": "a"}, ("data", "sites")),
        ({"sites": "a,a,b"}, ("a,a,b",)),
        ({"sites": "a,b"}, (2, 3)),
    ],
)
def test_parameters_are_checked_before_anything_runs(given, named) -> None:
    usual = {name: one.default for name, one in signature(federated.fn).parameters.items()}
    with pytest.raises(InputError, match=naming(*named)):
        _checked(usual | given)


@pytest.mark.parametrize("name", ["coordinator", "authority", "our clinic"])
def test_a_file_whose_name_is_of_no_site_is_told(tmp_path: Path, name: str) -> None:
    usual = {name: one.default for name, one in signature(federated.fn).parameters.items()}
    for index, one in enumerate(("north", "east", name)):
        (tmp_path / f"{one}.csv").write_text(as_text(generated(index, 60, 1)))
    with pytest.raises(InputError, match=naming(f"{name}.csv")):
        _checked(usual | {"data": str(tmp_path)})


def test_patients_of_a_folder_are_not_called_invented(tmp_path: Path) -> None:
    usual = {name: one.default for name, one in signature(federated.fn).parameters.items()}
    for index, name in enumerate(("north", "east", "south")):
        (tmp_path / f"{name}.csv").write_text(as_text(generated(index, 60, 1)))
    assert _checked(usual | {"data": str(tmp_path)}).title == f"hospitals ({tmp_path.name})"
    assert _checked(usual).title == "generated patients"


def test_hospitals_of_ucis_own_folder_are_sites_by_their_names(tmp_path: Path) -> None:
    usual = {name: one.default for name, one in signature(federated.fn).parameters.items()}
    for index, name in enumerate(("cleveland", "va", "hungarian")):
        text = as_text(generated(index, 60, 1)).replace("\n", "\r\n").encode()
        (tmp_path / f"processed.{name}.data").write_bytes(b"\xef\xbb\xbf" + text)
    (tmp_path / "other.csv").write_text("of another layout")
    found = _checked(usual | {"data": str(tmp_path)})
    assert [one.hospital for one in found.hospitals] == ["cleveland", "hungarian", "va"]
    for one in found.hospitals:  # a site reads what the coordinator has read
        assert (parsed(found.texts[one.hospital], "x").features == one.features).all()
    (tmp_path / "processed.a b.data").write_text("")
    with pytest.raises(InputError, match=naming("a b", "letters")):
        _checked(usual | {"data": str(tmp_path)})


ROW = "63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,{}\n"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (ROW.format(0) * 30, ("fewer than 4", "ill")),
        (ROW.format("NaN") * 30, ("line", "diagnosis")),
        (ROW.format(7) * 30, ("7", "diagnosis")),
        ("1,2,3\n" * 30, ("14", "3")),
        ((ROW.format(0) * 9 + ROW.format(1) * 9), ("18", "20")),
        (ROW.format(0).replace("145.0", "high") * 30, ("line 1", "high")),
        (ROW.format(1.5) * 30, ("line 1", "diagnosis", "1.5")),
        (ROW.format(0).replace("63.0,1.0", "1.0,63.0") * 30, ("line 1", "sex", "63")),
        (ROW.format(0).replace(",6.0,", ",2,") * 30, ("line 1", "thallium", "column 13", "2")),
        (ROW.format(0).replace(",", ";") * 30, ("line 1", "commas")),
        ("age,sex,cp,bps,chol,fbs,ecg,rate,ang,dep,slope,ca,thal,num\n", ("line 1", "names")),
    ],
)
def test_a_file_of_another_layout_is_told_with_its_line(tmp_path: Path, text: str, named) -> None:
    file = tmp_path / "clinic.csv"
    file.write_text(text)
    pattern = "(?s)" + "".join(f"(?=.*{word})" for word in named)
    with pytest.raises(InputError, match=pattern):
        read(file)


def test_what_is_missing_counts_as_average() -> None:
    rows = [ROW.format(at % 2).replace("233.0", "0").replace("145.0", "?") for at in range(30)]
    patients = parsed("".join(rows), "clinic")
    assert np.all(patients.features[:, FEATURES.index("cholesterol")] == 0)
    assert np.all(patients.features[:, FEATURES.index("pressure")] == 0)
    assert np.all(np.isfinite(patients.features))


def test_published_hospitals_are_read() -> None:
    if not HEART.is_dir():
        pytest.skip(f"no {HEART}, the UCI files that are not shipped")
    found = {file.stem: read(file) for file in sorted(HEART.glob("*.csv"))}
    assert {name: len(one) for name, one in found.items()} == {
        "cleveland": 303,
        "hungarian": 294,
        "switzerland": 123,
        "va": 200,
    }
    assert found["cleveland"].ill.sum() == 139  # as the publishers' description has it
    split = found["switzerland"].split(3)
    assert len(split.training) + len(split.test) == 123


def test_noise_is_as_large_as_its_epsilon_asks() -> None:
    for epsilon in (0.5, 3.0, 10.0):
        noise = noise_for(epsilon, 100)
        rho = 100 / (2 * noise.multiplier**2)
        assert rho + 2 * math.sqrt(rho * math.log(1e5)) == pytest.approx(epsilon)


def test_a_site_refuses_to_train_with_less_noise_than_it_wants() -> None:
    patients = parsed(as_text(generated(0, 60, 3)), "one")
    work = SiteWork(patients, None, least_noise=2.0)
    training = SiteTraining(model="logistic", seed=1, round=0, steps=1, rate=1.0)
    weights = initial(training).tolist()
    for noise, words in (
        (None, ("noise", 2)),
        (PrivacyNoise(multiplier=1.9), ("noise", 2)),
        (PrivacyNoise(multiplier=float("nan")), ("multiplier", "nan")),
    ):
        task = {"kind": "train", "training": replace(training, noise=noise).to_plain()}
        with pytest.raises(MaskingError, match=naming(*words)):
            work({**task, "weights": weights})
    enough = replace(training, noise=PrivacyNoise(multiplier=2.0)).to_plain()
    assert work({"kind": "train", "training": enough, "weights": weights}).size == len(weights) + 1


def test_the_noise_of_privacy_reaches_the_update_and_parts_are_clipped() -> None:
    patients = parsed(as_text(generated(0, 60, 3)), "one")
    far = Patients(hospital="one", features=patients.features * 1e6, ill=patients.ill)
    training = SiteTraining(model="logistic", seed=1, round=0, steps=1, rate=1.0)
    private = SiteTraining(
        model="logistic", seed=1, round=0, steps=1, rate=1.0, noise=noise_for(3.0, 1)
    )
    start = [0.0] * (len(FEATURES) + 1)

    def update(of: Patients, how: SiteTraining) -> Any:
        task = {"kind": "train", "training": how.to_plain(), "weights": start}
        return SiteWork(of, None)(task)[:-1]

    assert not np.array_equal(update(patients, private), update(patients, private))
    assert np.array_equal(update(patients, training), update(patients, training))
    bound = 45 + 10 * private.noise.multiplier  # all parts of one length, and ten deviations
    assert np.abs(update(far, private)).max() < bound < np.abs(update(far, training)).max()


def test_the_circuit_is_what_its_equations_say() -> None:
    """Against a state vector of Qiskit's own for random weights, and a formula for none."""
    from qiskit.primitives import StatevectorEstimator
    from qiskit.quantum_info import Operator, SparsePauliOp

    asked: list[Any] = []

    class Exact(StatevectorEstimator):
        def run(self, pubs, **options):
            asked.extend(pubs)
            return super().run(pubs, **options)

    qpu: Any = SimpleNamespace(estimator=lambda **_: Exact(default_precision=0.0))
    rng = np.random.default_rng(5)
    values = on_qpu(qpu, qubits=3, layers=2, shots=100)
    angles = rng.uniform(-0.7, 0.7, (4, 3))
    found = values(np.column_stack([angles, np.zeros((4, 12))]), 1)
    assert found == pytest.approx(np.sin(2 * angles).mean(axis=1))
    bindings = np.column_stack([angles, rng.normal(size=(4, 12))])
    found = values(bindings, 1)

    def turned(pauli: str, angle: float) -> Any:
        generator = Operator(SparsePauliOp(pauli)).data
        return math.cos(angle / 2) * np.eye(8) - 1j * math.sin(angle / 2) * generator

    def on(qubits: tuple[int, ...], letter: str) -> str:
        return "".join(letter if at in qubits else "I" for at in (2, 1, 0))

    mean = sum(Operator(SparsePauliOp(on((q,), "Z"))).data for q in range(3)) / 3
    for row, value in zip(bindings, found, strict=True):
        state = np.eye(8)[0].astype(complex)
        for layer in range(2):
            for qubit in range(3):
                angle = row[qubit] + row[3 + 2 * (layer * 3 + qubit)]
                state = turned(on((qubit,), "Y"), angle) @ state
            for qubit in range(3):
                angle = row[4 + 2 * (layer * 3 + qubit)]
                state = turned(on((qubit, (qubit + 1) % 3), "Z"), angle) @ state
        for qubit in range(3):
            state = turned(on((qubit,), "Y"), -math.pi / 2) @ state
        assert value == pytest.approx((state.conj() @ mean @ state).real)
    json.dumps(float(found[0]))
