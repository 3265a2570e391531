"""The decoder flow through Prefect, Dask, the broker and Aer, as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stim", reason="the decoder extra is not installed")
pytest.importorskip("pymatching", reason="the decoder extra is not installed")
pytest.importorskip("optax", reason="the decoder extra is not installed")

from backends.profiles import load_profile
from flows._decoder.codes import Memory, Noise, ideal_circuit, noise_of_profile, noisy
from flows._decoder.trained import load
from flows._inputs import InputError
from flows.decoder import decoder
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows.repeated import differences

needs_engine = pytest.mark.usefixtures("prefect_server")
slow = pytest.mark.slow
Check = Callable[[dict[str, Any]], dict[str, Any]]
DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "qec"
published = pytest.mark.skipif(not DATA.exists(), reason=f"needs the public data in {DATA}")


@slow
@needs_engine
@published
def test_published_figures_are_reproduced_and_the_network_beats_matching(
    run: Run, kept: Check
) -> None:
    result = kept(decoder(str(DATA / "d3_r05")))
    rated = result["decoders"]
    assert rated["matching"]["wrong"]["value"] == pytest.approx(0.15650, abs=5e-6)
    assert rated["matching"]["wrong"] == rated["published pymatching"]["wrong"]
    assert rated["correlated matching"]["per_round"]["value"] == pytest.approx(0.0318, abs=5e-5)
    assert rated["published tensor network contraction"]["per_round"]["value"] == pytest.approx(
        0.0287, abs=5e-5
    )
    assert rated["network"]["wrong"] is None  # it learned from half of them
    assert rated["network"]["test_per_round"]["value"] <= 0.0312
    assert result["test_shots"] == 25_000
    assert result["better"] == "network"
    assert result["best"] == "published tensor network contraction"
    assert "tensor network" in result["summary"][0]
    assert "network won" in result["summary"][1]
    assert "<svg" in result["plot"]


@slow
@needs_engine
def test_a_generated_memory_is_decoded_and_the_decoder_kept(
    run: Run, kept: Check, tmp_path: Path
) -> None:
    file = tmp_path / "surface.decoder"
    given = {"shots": 20_000, "samples": 100_000, "rounds": 4, "save": str(file), "seed": 3}
    result = kept(decoder(**given))
    assert (result["source"], result["code"], result["distance"]) == ("generated", "surface", 3)
    rates = {name: one["test_wrong"]["value"] for name, one in result["decoders"].items()}
    assert rates["correlated matching"] < rates["matching"] < 0.2
    assert rates["network"] <= rates["correlated matching"] + 0.002
    # Shots that it never saw, from the same noise.
    memory = Memory(code="surface", distance=3, rounds=4, basis="z")
    circuit = noisy(ideal_circuit(memory), noise_of_profile(load_profile("ibm-fez")))
    events, flips = circuit.compile_detector_sampler(seed=99).sample(
        20_000, separate_observables=True
    )
    found = load(file).flips(np.packbits(events, axis=1, bitorder="little"))
    assert (found != flips[:, 0]).mean() == pytest.approx(rates["network"], abs=0.01)
    assert not differences(result, decoder(**given))


MEASURED = {"distance": 3, "rounds": 2, "shots": 2000, "samples": 4000, "source": "qpu"}


@slow
@needs_engine
@pytest.mark.parametrize("qpu", ["helmi", "vlq"])  # one measures in the middle, one at the end
def test_a_memory_on_a_noisy_qpu_has_the_events_of_its_noise(
    run_on: Callable[[str], Run], kept: Check, qpu: str
) -> None:
    active = run_on(qpu)
    result = kept(decoder(**MEASURED))
    assert result["source"] == "qpu"
    assert sorted(span.kind for span in active.spans()).count("quantum") == 1
    memory = Memory(code="repetition", distance=3, rounds=2, basis="z")
    profile = load_profile(qpu)
    # Routing adds gates to the circuit that Stim knows of; idling is not simulated.
    least = noise_of_profile(profile)
    quiet = Noise(one_qubit=least.one_qubit, two_qubits=least.two_qubits, readout=least.readout)
    events = noisy(ideal_circuit(memory), quiet).compile_detector_sampler(seed=1).sample(20_000)
    assert 0.8 * events.mean() < result["detection_share"] < 3 * events.mean()
    assert result["decoders"]["matching"]["wrong"]["value"] < 0.3


@slow
@needs_engine
def test_an_ideal_qpu_makes_no_errors_and_the_report_says_so(run: Run, kept: Check) -> None:
    result = kept(decoder(**MEASURED, code="surface"))
    assert result["detection_share"] == 0
    assert result["decoders"]["matching"]["wrong"]["value"] == 0
    assert result["better"] == "neither"
    assert any("no errors" in line for line in result["summary"])


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"data": "nowhere"}, naming("nowhere")),
        ({"data": "nowhere", "source": "qpu"}, naming("data", "source")),
        ({"source": "heaven"}, naming("heaven", "generated", "qpu")),
        ({"code": "steane"}, naming("steane", "surface", "repetition")),
        ({"network": "transformer"}, naming("transformer", "attention")),
        ({"network": "attention", "width": 6}, naming("width", 6, 4)),
        ({"basis": "y"}, naming("basis", "y")),
        ({"basis": "x", "code": "repetition"}, naming("basis", "x")),
        ({"profile": "nobody"}, naming("nobody")),
        ({"distance": 4}, naming("distance", 4)),
        ({"distance": 1}, naming("distance", 1, 3)),
        ({"rounds": 0}, naming("rounds", 0)),
        ({"shots": 10}, naming("shots", 10)),
        ({"samples": 1}, naming("samples", 1)),
        ({"passes": 0}, naming("passes", 0)),
        ({"gpus": 2}, naming("gpus", 2)),
        ({"seed": -1}, naming("seed", -1)),
        ({"save": "no/such/folder/x"}, naming("save")),
    ],
)
def test_what_cannot_be_decoded_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        decoder(**parameters)
    assert run.spans() == []


@needs_engine
def test_a_code_too_large_for_the_qpu_is_refused(run_on: Callable[[str], Run]) -> None:
    active = run_on("vlq")
    with pytest.raises(InputError, match=naming("vlq", 23, 27, "rounds")):
        decoder(source="qpu", rounds=11)
    assert active.spans() == []
