"""`hpcqc simulate`: a table, a document, a page, or a refusal that says why."""

from __future__ import annotations

import pytest

from hpcqc import ConfigError, simulate
from tests.errors import naming


def test_policies_side_by_side(hpcqc, tmp_path) -> None:
    page = tmp_path / "study.html"
    done = hpcqc("simulate", "--mix", 1, "--profile", "vlq", "--limit", 60, "--report", page)
    assert done.code == 0
    for name in ("fifo", "priority", "fair-share", "shortest", "weighted", "fairness (Jain)"):
        assert name in done.out
    text = page.read_text()
    assert text.count("<svg") == 3
    assert "prefers-color-scheme: dark" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_a_document(hpcqc) -> None:
    asked = ("--policy", "fifo", "--policy", "weighted:shortness=8", "--json", "--load", 0.9)
    seen = hpcqc("simulate", "--mix", 1, "--qpu", "vlq", "--limit", 60, *asked).document
    assert [p["policy"] for p in seen["policies"]] == ["fifo", "weighted"]
    assert seen["policies"][1]["settings"]["shortness"] == 8
    assert all(p["jobs"] == 60 for p in seen["policies"])
    assert seen["qpu"] == "vlq"


def test_a_workload_file(hpcqc, tmp_path) -> None:
    path = tmp_path / "a.swf"
    path.write_text(
        "".join(f"{n} {n} -1 9 2 {'-1 ' * 6}1 1 {'-1 ' * 5}\n" for n in range(1, 9)) + "x\n"
    )
    done = hpcqc("simulate", "--swf", path, "--profile", "helmi", "--policy", "fifo")
    assert done.code == 0
    assert "8 jobs of a.swf on QPU helmi" in done.out
    assert "1 malformed line left out" in done.out
    assert hpcqc("simulate", "--swf", path, "--profile", "helmi", "--qubits", 6).code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give one of ledger, swf and mix"),
        (("--mix", 1, "--swf", "x"), "give one of ledger"),
        (("--mix", 1), "no timing model"),
        (("--mix", 1, "--profile", "vql"), "vlq"),
        (("--mix", 1, "--profile", "vlq", "--policy", "wieghted"), "did you mean 'weighted'"),
        (("--mix", 1, "--profile", "vlq", "--policy", "fifo:a"), "parameters as numbers"),
        (("--mix", 1, "--profile", "vlq", "--load", 0), "a number above 0"),
        (("--mix", 1, "--profile", "vlq", "--load", 1, "--compress", 2), "give one of them"),
        (("--ledger", "none.sqlite", "--profile", "vlq"), "none.sqlite is not a file"),
        (("--ledger", "none.sqlite"), "none.sqlite is not a file"),
        (("--ledger", "notes.txt"), "ledger notes.txt"),
        (("--swf", "none.swf", "--profile", "vlq"), "cannot read"),
        (("--swf", "none.swf"), "cannot read"),
        (("--mix", 1, "--profile", "vlq", "--report", "no/such/x.html"), "no folder"),
    ],
)  # fmt: skip
def test_mistakes(hpcqc, tmp_path, arguments, told) -> None:
    (tmp_path / "notes.txt").write_text("no ledger at all\n" * 100)
    done = hpcqc("simulate", *arguments)
    assert done.code == 2
    assert told in " ".join(done.err.split())


def test_metrics_are_typed() -> None:
    seen: dict[str, int] = {}

    def note(policy: str, done: int, jobs: int) -> None:
        assert jobs == 40
        seen[policy] = done

    asked = ("fifo", "weighted:shortness=8")
    found = simulate(mix=1, profile="vlq", limit=40, load=0.9, policies=asked, progress=note)
    assert found.qpu == "vlq"
    assert tuple(found.outcomes) == asked
    assert set(seen) == set(asked)
    assert all(outcome.metrics.jobs == 40 for outcome in found.outcomes.values())
    assert found.outcomes["weighted:shortness=8"].policy.shortness == 8
    with pytest.raises(ConfigError, match=naming("ledger", "swf", "mix")):
        simulate(profile="vlq")
