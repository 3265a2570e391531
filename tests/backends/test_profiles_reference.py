import importlib.util
import re
from pathlib import Path

import pytest

from backends.profiles import load_profile, shipped
from backends.profiles.files import ProfileFile

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = (ROOT / "docs/reference/profiles.md").read_text(encoding="utf-8")
ROWS = ROOT.parent / "shared" / "data" / "fiqci"
MEASURED = {"helmi": "helmi", "vtt-q50": "vtt-q50", "aalto-q20": "aaltoq20"}


@pytest.fixture(scope="module")
def fit_timing():
    path = ROOT / "benchmarks" / "fit_timing.py"
    spec = importlib.util.spec_from_file_location("fit_timing_script", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_reference_explains_every_key_that_is_read():
    schema = ProfileFile.model_json_schema()
    keys = {key for table in (schema, *schema["$defs"].values()) for key in table["properties"]}
    assert len(keys) > 35
    words = set(re.findall(r"`(?:[\w]+\.)*(\w+)`", REFERENCE))
    assert keys <= words | {table for table in keys if f"`{table}." in REFERENCE}


def test_every_key_of_the_shipped_files_is_in_the_reference():
    for name in shipped():
        for path in load_profile(name).sources:
            shown = re.sub(r"^gates\.\w+\.", "gates.NAME.", path)
            assert f"`{shown}`" in REFERENCE, path


def test_the_example_of_an_own_profile_loads(tmp_path):
    example = re.findall(r"```toml\n(.*?)```", REFERENCE, re.DOTALL)[-1]
    path = tmp_path / "bench.toml"
    path.write_text(example, encoding="utf-8")
    assert load_profile(str(path)).coupling == ((0, 1), (1, 2))


def test_a_fit_finds_the_coefficients_that_made_the_rows(fit_timing):
    true = {"init_s": 0.7, "qubit_init_s": 0.012, "shot_s": 4e-4, "layer_shot_s": 1.7e-7}
    model = fit_timing.TimingModel(**true)
    rows = []
    for i in range(60):
        row = fit_timing.Row(
            num_qubits=1 + i * 7 % 50,
            depth=1 + i * 13 % 90,
            circuits=1 + i % 20,
            shots=1000 + 700 * i,
            qpu_seconds=1.0,
        )
        outlier = 3.0 if i == 31 else 1.0
        seconds = fit_timing.predict(model, row) * outlier
        rows.append(
            fit_timing.Row(
                num_qubits=row.num_qubits,
                depth=row.depth,
                circuits=row.circuits,
                shots=row.shots,
                qpu_seconds=seconds,
            )
        )
    found = fit_timing.fit(rows, tuple(true))
    for name, value in true.items():
        assert getattr(found, name) == pytest.approx(value, rel=0.02)


def test_rows_that_failed_are_left_out(fit_timing, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(
        "num_qubits,depth,batches,shots,qpu_seconds,error\n"
        "2,5,1,1000,1.5,\n2,5,1,1000,1.5,timeout\n2,5,1,1000,,\n2,5,1,1000,0,\n",
        encoding="utf-8",
    )
    rows, left_out = fit_timing.read_rows(path)
    assert (len(rows), left_out) == (1, 3)


def test_every_fourth_row_is_held_out(fit_timing):
    kept, held = fit_timing.held_out(list(range(1, 11)))
    assert (kept, held) == ([1, 2, 3, 5, 6, 7, 9, 10], [4, 8])


@pytest.mark.parametrize(("profile", "file"), MEASURED.items())
def test_the_shipped_timing_is_the_fit_and_beats_the_published_formula(fit_timing, profile, file):
    path = ROWS / f"{file}.csv"
    if not path.is_file():
        pytest.skip(f"the measured FiQCI rows are not beside the checkout ({path.name})")
    kept, held = fit_timing.held_out(fit_timing.read_rows(path)[0])
    shipped_model = load_profile(profile).timing
    form = [
        n for n in ("init_s", "qubit_init_s", "shot_s", "layer_shot_s") if getattr(shipped_model, n)
    ]
    fitted = fit_timing.fit(kept, form)
    for name in form:
        assert getattr(shipped_model, name) == pytest.approx(getattr(fitted, name), rel=2e-3)
    published = fit_timing.mape(fit_timing.PUBLISHED[file], held)
    assert fit_timing.mape(shipped_model, held) < 0.9 * published
    told = re.search(
        r"([\d.]+) % mean error.*formula ([\d.]+) %", load_profile(profile).sources["timing.init_s"]
    )
    assert float(told[1]) == pytest.approx(fit_timing.mape(shipped_model, held), abs=0.1)
    assert float(told[2]) == pytest.approx(published, abs=0.1)
