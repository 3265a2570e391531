"""Molecules: their codes and scores, the network, the Born machine, and the flow as users run it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qiskit.primitives import StatevectorSampler

pytest.importorskip("rdkit", reason="the molecules extra is not installed")
pytest.importorskip("selfies", reason="the molecules extra is not installed")
pytest.importorskip("optax", reason="the molecules extra is not installed")

from flows._drug_like.born import (
    born_circuit,
    born_parameters,
    code_bits,
    discrepancy,
    frequencies,
)
from flows._drug_like.chemistry import library, read_smiles, scored, spelled
from flows._drug_like.network import sampled, trained
from flows._inputs import InputError
from flows.molecules import molecules
from orchestrator.runs import Run
from tests.errors import naming
from tests.flows.repeated import differences

needs_engine = pytest.mark.usefixtures("prefect_server")
Check = Callable[[dict[str, Any]], dict[str, Any]]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_the_discrepancy_is_that_of_its_definition(seed: int) -> None:
    """Against the sum over all pairs of codes, with the kernel written out."""
    first, second = np.random.default_rng(seed).dirichlet(np.ones(16), 2)
    bits = code_bits(np.arange(16), 4)
    unlike = (bits[:, None, :] != bits[None, :, :]).sum(axis=-1)
    apart = first - second
    assert discrepancy(first, second) == pytest.approx(apart @ (0.3**unlike) @ apart)
    assert discrepancy(first, first) == 0


def test_frequencies_are_those_of_the_codes_measured() -> None:
    circuit = born_circuit(4)
    rows = np.zeros((2, born_parameters(4)))
    rows[1, :2] = np.pi  # turns the first two qubits over
    found = StatevectorSampler(seed=1).run([(circuit, rows)], shots=20).result()[0].data.meas
    shares = frequencies(found, 4)
    assert shares[0, 0] == 1
    assert shares[1, 3] == 1
    assert code_bits(np.array([3]), 4).tolist() == [[1, 1, 0, 0]]


def test_molecules_are_scored() -> None:
    aspirin = scored("CC(=O)Oc1ccccc1C(=O)O")
    assert aspirin.qed == pytest.approx(0.550, abs=0.002)  # RDKit's documented value
    assert 1 < aspirin.sa < 2
    assert not aspirin.passes  # an ester of a phenol, which Brenk lists
    assert scored("CCO").passes
    assert scored("OCC").smiles == scored("CCO").smiles
    for text in ("", "C(", "c1ccc", "not a molecule", "[U]" * 300):
        assert scored(text).reward == 0 or text.startswith("[U]")


def _sample(count: int) -> tuple[str, list[str]]:
    title, smiles = read_smiles(None)
    assert len(smiles) == 2000
    return title, smiles[:count]


def test_a_library_spells_its_molecules_and_counts_what_is_none() -> None:
    title, smiles = _sample(150)
    known = library(title, [*smiles, "C(", "nonsense", smiles[0]], 1000, seed=1)
    assert known.unreadable == 2
    assert len(known.smiles) == 150
    for text, spelling in zip(known.smiles[:20], known.spellings, strict=False):
        assert scored(spelled(known.tokens, spelling)).smiles == text
    assert 0.2 < known.codes.mean() < 0.6  # of properties above their median
    assert library(title, smiles, 120, seed=1).smiles != library(title, smiles, 120, seed=2).smiles
    with pytest.raises(InputError, match=naming(99)):
        library(title, smiles[:99], 1000, seed=1)


def test_of_a_salt_the_molecule_is_learned() -> None:
    title, smiles = _sample(120)
    salts = [f"[Na+].{one}.Cl" for one in smiles]
    known, plain = library(title, salts, 1000, seed=1), library(title, smiles, 1000, seed=1)
    assert (known.smiles, known.tokens) == (plain.smiles, plain.tokens)
    assert (known.mixtures, plain.mixtures) == (120, 0)


def test_files_of_both_layouts_are_read(tmp_path: Path) -> None:
    text = "SMILES,SPLIT\nCCO,train\nCCC,test\nCCN,train\n"
    (tmp_path / "dataset.csv").write_text(text)
    assert read_smiles(str(tmp_path / "dataset.csv")) == ("dataset.csv", ["CCO", "CCN"])
    with gzip.open(tmp_path / "my_train.smi.gz", "wt") as file:
        file.write("CCO ethanol\n\nCCC\n")
    assert read_smiles(str(tmp_path))[1] == ["CCO", "CCC"]
    (tmp_path / "zinc.csv").write_text('name;smiles;logP\n"a; b";"CCO\n";1\nshort\n;CCC;2\n')
    assert read_smiles(str(tmp_path / "zinc.csv"))[1] == ["CCO", "", "CCC"]
    (tmp_path / "named.smi").write_text("CCO 1,2-name\nCCC |c:1,2|\n")
    assert read_smiles(str(tmp_path / "named.smi"))[1] == ["CCO", "CCC"]
    (tmp_path / "other_train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=naming(tmp_path.name, 2)):
        read_smiles(str(tmp_path))
    with pytest.raises(InputError, match=naming("other_train.csv", 1, "SMILES")):
        read_smiles(str(tmp_path / "other_train.csv"))


@pytest.mark.slow
def test_a_network_learns_what_its_code_asks_for() -> None:
    """Two languages, told apart by a bit; the same seed makes the same network."""
    rng = np.random.default_rng(1)
    bit = rng.integers(0, 2, 200)
    spellings = np.full((200, 6), -1)
    spellings[bit == 0, :3] = [0, 1, 0]
    spellings[bit == 1] = [2, 2, 1, 1, 2, 2]
    codes = np.zeros((200, 8), dtype=np.int64)
    codes[:, 3] = bit
    speller = trained(spellings, codes, 3, 40, seed=1)
    found = sampled(speller, codes, seed=2)[:, :6]
    assert (found == spellings).all(axis=1).mean() > 0.8
    again = trained(spellings, codes, 3, 40, seed=1)
    for name, weights in speller.weights.items():  # sums of single precision, shared by threads
        assert again.weights[name] == pytest.approx(weights, abs=1e-4)


@needs_engine
@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"molecules": 5}, naming("molecules", 5, 100)),
        ({"rounds": 0}, naming("rounds", 0)),
        ({"samples": 1}, naming("samples", 1)),
        ({"shots": 0}, naming("shots", 0)),
        ({"data": "none.smi"}, naming("none.smi")),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_stage(
    parameters: dict[str, Any], said: str, run: Run
) -> None:
    with pytest.raises(InputError, match=said):
        molecules(**parameters)
    assert run.spans() == []


@needs_engine
def test_a_file_without_molecules_is_refused(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prose.smi"
    file.write_text("some\nlines\nof\nprose\n" * 50)
    with pytest.raises(InputError, match=naming("prose.smi", 200)):
        molecules(str(file))
    assert run.spans() == []


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("qpu", ["aer", "vlq"])
def test_molecules_are_made_with_three_priors(
    qpu: str, run_on: Callable[[str], Run], kept: Check
) -> None:
    current = run_on(qpu)
    few = {"molecules": 150, "epochs": 3, "rounds": 1, "samples": 40, "generations": 3}
    result = kept(molecules(**few, shots=200))
    assert set(result["priors"]) == {"Born machine", "classical table", "uniform codes"}
    for prior in result["priors"].values():
        assert prior["valid"] > 0.9  # SELFIES always mean something
        assert 0 < prior["reward"] < prior["qed"] < 1
        assert len(prior["history"]) == 2
    assert "<svg" in result["plot"]
    assert len(result["best"]) == 12
    assert all(scored(one["smiles"]).qed == pytest.approx(one["qed"]) for one in result["best"])
    jobs = len(current.spans())
    assert not differences(result, molecules(**few, shots=200))
    assert len(current.spans()) == 2 * jobs
