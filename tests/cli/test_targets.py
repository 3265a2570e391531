"""Finding and importing the flow that is to run."""

from __future__ import annotations

import sys

import pytest

from orchestrator.application.target import TargetError, find_target, load_flow
from orchestrator.doctor import ShadowError, shadowing
from tests.architecture.source import ROOT
from tests.errors import naming

FLOW = "from prefect import flow\n@flow\ndef {name}(): return '{name}'\n"


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """Forget what a test imports from its folder."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("mine", "neighbour", "json_flow", "my_flow", "flows"):
            del sys.modules[name]


def test_one_flow_in_a_file_needs_no_name(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(FLOW.format(name="only"))
    for text in (f"{tmp_path}/mine.py", f"{tmp_path}/mine.py:only"):
        assert load_flow(find_target(text)).name == "only"


def test_a_flow_that_is_only_imported_is_not_the_file_s_own(tmp_path) -> None:
    (tmp_path / "neighbour.py").write_text(FLOW.format(name="other"))
    (tmp_path / "mine.py").write_text("from neighbour import other\n" + FLOW.format(name="own"))
    assert load_flow(find_target(f"{tmp_path}/mine.py")).name == "own"


@pytest.mark.parametrize("regular", [True, False])
def test_a_user_s_own_flows_folder_works(tmp_path, monkeypatch, regular) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "flows"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "flows").mkdir()
    if regular:
        (tmp_path / "flows" / "__init__.py").write_text("")
    (tmp_path / "flows" / "maxcut.py").write_text("VALUE = 42\n")
    (tmp_path / "mine.py").write_text(
        "from prefect import flow\nfrom flows.maxcut import VALUE\n@flow\ndef own(): return VALUE\n"
    )
    assert load_flow(find_target(f"{tmp_path}/mine.py")).fn() == 42


@pytest.mark.parametrize("name", ["json.py", "my-flow.py"])
def test_names_that_are_no_free_module_names(tmp_path, name) -> None:
    import json

    (tmp_path / name).write_text(FLOW.format(name="own"))
    assert load_flow(find_target(f"{tmp_path}/{name}")).name == "own"
    assert sys.modules["json"] is json


@pytest.mark.parametrize("name", ["backends", "hpcqc", "orchestrator"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_that_hides_ours_is_explained(tmp_path, name, kind) -> None:
    (tmp_path / "mine.py").write_text(FLOW.format(name="own"))
    place = tmp_path / f"{name}.py"
    if kind == "folder":
        (tmp_path / name).mkdir()
        place = tmp_path / name / "own.py"
    place.write_text("")
    with pytest.raises(ShadowError, match=naming(tmp_path / name, f"'{name}'")):
        find_target(f"{tmp_path}/mine.py")


def test_folders_that_hide_nothing(tmp_path) -> None:
    (tmp_path / "backends").mkdir()  # no Python in it
    (tmp_path / "backends" / "data.csv").write_text("")
    shadowing(tmp_path)
    shadowing(ROOT)  # our own


@pytest.mark.parametrize(
    ("content", "target", "words"),
    [
        ("x = 1", "mine.py", ["holds no flow", "@prefect.flow"]),
        (
            FLOW.format(name="a") + FLOW.format(name="b"),
            "mine.py",
            ["several flows: a, b", ":NAME"],
        ),
        (FLOW.format(name="alpha"), "mine.py:alpa", ["no 'alpa'", "alpha", "mean 'alpha'"]),
        ("def plain(): ...", "mine.py:plain", ["is function, not a flow", "@prefect.flow"]),
        ("import not_there_at_all", "mine.py", ["needs 'not_there_at_all'"]),
        ("import pyscf.not_there", "mine.py", ["needs 'pyscf.not_there'", "hpcqc[chemistry]"]),
        ("def broken(:\n", "mine.py", ["invalid syntax", "mine.py, line 1"]),
        ("x = 1\nraise RuntimeError('at import')", "mine.py", ["(line 2)", "at import"]),
        ("x = 1", "none.py:x", ["no file 'none.py'"]),
        ("x = 1", "folder/none", ["no file 'folder/none'"]),
    ],
)
def test_what_is_no_flow_is_refused(tmp_path, monkeypatch, content, target, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(TargetError) as caught:
        load_flow(find_target(target))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("content", "target", "words"),
    [
        ("x = 1\ndef broken(:\n", "mine.py", ["invalid syntax", "mine.py, line 2"]),
        (FLOW.format(name="alpha"), "mine.py:alpa", ["no 'alpa'", "are: alpha", "mean 'alpha'"]),
        ("x = '\0'", "mine.py", ["mine.py", "null"]),
    ],
)
def test_a_file_is_read_before_anything_is_imported(
    tmp_path, monkeypatch, content, target, words
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(TargetError) as caught:
        find_target(target)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    "content",
    [
        "from elsewhere import *",
        "from elsewhere import alpha",
        "import elsewhere as alpha",
        "globals()['alpha'] = 1",
        "if True:\n    alpha = 1",
        "for alpha in (): ...",
        "match [1]:\n    case [*alpha]: ...",
        "match {}:\n    case {**alpha}: ...",
        "match 1:\n    case alpha: ...",
        "class alpha: ...",
        "(x, [*alpha]) = 1, [2]",
    ],
)
def test_a_name_that_a_file_may_bind_is_looked_for_when_it_is_imported(tmp_path, content) -> None:
    (tmp_path / "mine.py").write_text(content)
    assert find_target(f"{tmp_path}/mine.py:alpha").attribute == "alpha"


def test_ready_flows_go_by_name() -> None:
    target = find_target("flows.dissociation")
    assert target.entry_point is not None
    with pytest.raises(
        TargetError, match=naming("flows.maxcu", "flows.maxcut", "flows.dissociation")
    ):
        find_target("flows.maxcu")


def test_a_path_wins_over_a_name(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flows.dissociation.py").write_text("")
    target = find_target("./flows.dissociation.py")
    assert target.path == tmp_path / "flows.dissociation.py"


def test_a_ready_flow_hidden_by_a_folder_is_explained(tmp_path, monkeypatch) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "flows"]:
        monkeypatch.delitem(sys.modules, name)
    target = find_target("flows.dissociation")
    with pytest.raises(ShadowError, match=naming("flows.dissociation", "PYTHONPATH")):
        load_flow(target)
