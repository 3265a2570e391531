"""A memory decoded in real time: the server as a process, and the flow as a user runs it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("stim", reason="the decoder extra is not installed")
pytest.importorskip("pymatching", reason="the decoder extra is not installed")
pytest.importorskip("optax", reason="the decoder extra is not installed")

from flows._decoder.codes import Memory, Noise, ideal_circuit, noisy
from flows._decoder.experiments import coordinates_of
from flows._decoder.served import correlated, matching, network, of_content
from flows._decoder.streaming import Stream, StreamError, round_sizes, streamed
from flows._inputs import InputError
from flows.realtime import realtime
from orchestrator.realtime.client import DecodingClient
from orchestrator.realtime.sockets import bound_socket
from orchestrator.runs import Run
from tests.errors import naming

needs_engine = pytest.mark.usefixtures("prefect_server")
slow = pytest.mark.slow
Check = Callable[[dict[str, Any]], dict[str, Any]]
CIRCUIT = ideal_circuit(Memory(code="surface", distance=3, rounds=3, basis="z"))
LOUD = noisy(CIRCUIT, Noise(one_qubit=0.001, two_qubits=0.01, readout=0.01))
MODEL = str(LOUD.detector_error_model(decompose_errors=True))


def test_rounds_follow_each_other_as_detectors_do() -> None:
    places = coordinates_of(CIRCUIT.get_detector_coordinates(), CIRCUIT.num_detectors)
    assert round_sizes(places) == (4, 8, 8, 4)


def test_decoders_of_files_are_those_of_pymatching(tmp_path: Path) -> None:
    import pymatching
    import stim

    file = tmp_path / "surface.dem"
    file.write_text(MODEL)
    events, _ = LOUD.compile_detector_sampler(seed=3).sample(50, separate_observables=True)
    for make, both in ((matching, False), (correlated, True)):
        theirs = pymatching.Matching.from_detector_error_model(
            stim.DetectorErrorModel(MODEL), enable_correlations=both
        ).decode_batch(events, enable_correlations=both)
        ours = [make(str(file)).decode(shot.astype(np.uint8)) for shot in events[:20]]
        assert np.array(ours).tolist() == theirs[:20].tolist()
    assert of_content("matching", MODEL.encode()).syndromes == CIRCUIT.num_detectors


def test_files_of_no_decoder_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "wrong"
    for make, content in ((matching, "hello"), (matching, "error(0.1) D0"), (network, MODEL)):
        file.write_text(content)
        with pytest.raises(InputError, match=naming("wrong")):
            make(str(file))


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "orchestrator.cli", "realtime", *words]


def test_a_served_decoder_answers_and_says_what_came_in(tmp_path: Path) -> None:
    file = tmp_path / "surface.dem"
    file.write_text(MODEL)
    events, flips = LOUD.compile_detector_sampler(seed=4).sample(30, separate_observables=True)
    words = command("serve", str(file), "--decoder", "matching")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            ready = process.stdout.readline().split()
            assert ready[0] == "QEC_DECODING_SERVER_READY"
            said = dict(word.split("=") for word in ready[1:])
            assert (said["syndromes"], said["observables"]) == ("24", "1")
            with DecodingClient("127.0.0.1", int(said["port"])) as client:
                right = 0
                for shot, flip in zip(events.astype(np.uint8), flips, strict=True):
                    client.enqueue(shot[:10])
                    client.enqueue(shot[10:])
                    right += client.corrections(1)[0] == flip[0]
            process.send_signal(signal.SIGTERM)
            last = process.stdout.read().split()
        finally:
            process.kill()
    assert right >= 27
    assert last[0] == "QEC_DECODING_SERVER_RING"
    assert {"dispatched=90", "decoded=30", "foreign=0", "sessions=1"} <= set(last)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.decoder"], naming("none.decoder")),
        (["none.decoder", "--decoder", "heaven"], naming("heaven", "matching")),
    ],
)
def test_what_cannot_be_served_is_an_error_without_a_traceback(words: list[str], said: str) -> None:
    done = subprocess.run(command("serve", *words), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert re.search(said, done.stderr)


def test_a_server_that_never_answers_ends_the_stream() -> None:
    with bound_socket("127.0.0.1", 0) as silent:
        port = silent.getsockname()[1]
        asked = Stream(
            kind="matching",
            content=MODEL.encode(),
            events=np.zeros((50, 24), dtype=bool),
            sizes=(4, 8, 8, 4),
            timeout_s=0.01,
            address=f"127.0.0.1:{port}",
        )
        with pytest.raises(StreamError, match=naming(port, 3)):
            streamed(asked, of_content("matching", asked.content).decode)


SMALL = {"rounds": 2, "shots": 1000, "samples": 4000, "streamed": 200, "deadline_us": 1e6}


@slow
@needs_engine
def test_a_memory_on_the_qpu_is_decoded_live_by_the_network_of_a_stage_before(
    run_on: Callable[[str], Run], kept: Check
) -> None:
    active = run_on("helmi")
    result = kept(realtime(source="qpu", timeout_s=30.0, **SMALL))
    assert (result["qpu_source"], result["decoder"], result["streamed"]) == ("qpu", "network", 200)
    names = [span.name.rpartition("-")[0] for span in active.spans()]  # in order of start
    assert names.index("execute") < names.index("_learn") < names.index("stream")
    assert result["lost"] == result["refused"] == result["malformed"] == 0
    apart = abs(result["wrong"]["value"] - result["matching_wrong"]["value"])
    assert apart < 0.1
    assert result["wrong"]["value"] < 0.4
    for found in result["latency_us"].values():
        assert 0 < found["p50"] <= found["p99"] <= found["max"]
    assert "<svg" in result["plot"]


@slow
@needs_engine
def test_matching_is_streamed_without_training(run: Run, kept: Check) -> None:
    result = kept(realtime(decoder="correlated", timeout_s=30.0, **SMALL))
    assert result["wrong"] == result["matching_wrong"]
    assert not any(span.name.startswith("_learn") for span in run.spans())


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"decoder": "oracle"}, naming("oracle", "matching")),
        ({"streamed": 0}, naming("streamed", 0)),
        ({"deadline_us": float("nan")}, naming("deadline_us")),
        ({"timeout_s": 0.0}, naming("timeout_s")),
        ({"server": "nowhere"}, naming("nowhere")),
        ({"server": "decoder.site:5555"}, naming("decoder.site", "another machine")),
        ({"distance": 2}, naming("distance", 2)),
    ],
)
def test_what_cannot_be_streamed_is_refused(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        realtime(**parameters)
    assert run.spans() == []
