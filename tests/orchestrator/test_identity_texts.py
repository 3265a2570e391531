"""Texts of identities: each parses to its identity, and no two identities have the same text."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import identity
from orchestrator.broker.core.job_request import JobRequest
from orchestrator.broker.core.qpu_history import QpuHistory
from orchestrator.identity import (
    CallKey,
    CallStage,
    IdentityError,
    JobId,
    Occurrence,
    Occurrences,
    OwnedName,
    Payer,
    ProjectAccount,
    ResultKey,
    RunAccount,
    Scope,
    SlurmOwner,
    SlurmTag,
    Tag,
    UnitKey,
    account_from_text,
    checked_run_id,
    dated_run_id,
    escaped,
    is_job_id,
    is_scope_of,
    lock_file_name,
    qpu_identity,
    results_audience,
    reuse_tag,
    sample_run_id,
    unescaped,
    units_file_name,
)

# Names as an attacker would choose them: of the separators, and of what stands for them.
_SIGNS = 'ab/%2F5\x1f~@:."\\-0'
_NAMES = st.text(st.sampled_from(_SIGNS), max_size=6)
_RUNS = st.text(st.sampled_from(_SIGNS.replace("~", "")), min_size=1, max_size=6)
_NUMBERS = st.integers(0, 20)
_DIGESTS = st.text(st.sampled_from("0a"), min_size=16, max_size=16)
_OCCURRENCES = st.builds(Occurrence, _DIGESTS, _NUMBERS)
_UNITS = st.recursive(
    _OCCURRENCES.map(str),
    lambda outer: st.builds(UnitKey, outer, _OCCURRENCES.map(str)).map(str),
    max_leaves=3,
)
_QPUS = st.builds(qpu_identity, _NAMES, _NAMES, st.just({}))
_RUN_ACCOUNTS = st.builds(RunAccount, _NAMES, _NAMES)
_ACCOUNTS: st.SearchStrategy[Any] = st.builds(ProjectAccount, _NAMES) | _RUN_ACCOUNTS
_KINDS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "occurrence": (_OCCURRENCES, str, Occurrence.parse),
    "unit": (st.builds(UnitKey, _UNITS, _OCCURRENCES.map(str)), str, UnitKey.parse),
    "scope": (st.builds(Scope, _RUNS, st.just("") | _UNITS), str, Scope.parse),
    "stored value": (st.builds(ResultKey, _RUNS, _OCCURRENCES.map(str)), str, ResultKey.parse),
    "call's stage": (
        st.builds(CallStage, st.none() | _UNITS, st.just("") | _QPUS),
        lambda stage: stage.text,
        CallStage.parse,
    ),
    "tag": (st.builds(Tag, _NAMES, _NUMBERS), str, Tag.parse),
    "payer": (st.builds(Payer, _NAMES, _NAMES), lambda payer: payer.text, Payer.parse),
    "owned name": (st.builds(OwnedName, _NAMES, _NAMES), str, OwnedName.parse),
    "account": (_ACCOUNTS, str, account_from_text),
}
_PAIRS = st.tuples(_NAMES, _NAMES)
_NOW = datetime(2026, 5, 4, tzinfo=UTC)


@pytest.mark.parametrize("kind", _KINDS)
@given(data=st.data())
def test_a_text_is_read_as_what_it_was_made_of(kind: str, data: st.DataObject) -> None:
    made, write, parse = _KINDS[kind]
    one, other = data.draw(made), data.draw(made)
    assert parse(write(one)) == one
    assert (write(one) == write(other)) is (one == other)


_KEYS = st.builds(
    CallKey,
    run=_NAMES,
    stage=st.none() | _NAMES,
    qpu=_NAMES,
    project=_NAMES,
    digest=_NAMES,
    occurrence=st.integers(0, 3),
)


@given(_KEYS, _KEYS)
def test_two_calls_never_are_one_job(one: CallKey, other: CallKey) -> None:
    assert is_job_id(one.job)
    assert (one.job == other.job) is (one == other)


@given(_RUNS, _RUNS, _UNITS)
def test_a_scope_is_of_the_run_that_it_names(run: str, other: str, key: str) -> None:
    for scope in (Scope(run), Scope(run, key)):
        assert is_scope_of(str(scope), run)
        assert is_scope_of(str(scope), other) is (run == other)


@given(_NAMES, st.sampled_from("/\x1f"))
def test_what_is_escaped_comes_back(name: str, separator: str) -> None:
    assert separator not in escaped(name, separator)
    assert unescaped(escaped(name, separator), separator) == name


@given(st.lists(_NAMES, max_size=20))
def test_equal_contents_are_numbered_in_their_order(contents: list[str]) -> None:
    counted = Occurrences()
    numbered = [(content, counted.next(content)) for content in contents]
    assert len(set(numbered)) == len(numbered)
    assert numbered == [(one, contents[:at].count(one)) for at, one in enumerate(contents)]


@given(st.lists(_PAIRS, min_size=2, max_size=2, unique=True))
def test_uses_of_two_payers_are_never_added_up(pairs: list[tuple[str, str]]) -> None:
    history = QpuHistory()
    for seconds, pair in enumerate(pairs, start=1):
        history.use_by(Payer(*pair), seconds, _NOW)
    use = history.situation(_NOW, {}).use
    assert use == {Payer(*pair): n for n, pair in enumerate(pairs, start=1)}


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (Occurrence.parse, "content"),
        (Occurrence.parse, "content-x"),
        (Occurrence.parse, "content-01"),
        (Occurrence.parse, "content-²"),
        (UnitKey.parse, "content-0"),
        (ResultKey.parse, "hpcqc-run"),
        (ResultKey.parse, "hpcqc-run-0123456789abcdeg-0"),
        (Tag.parse, "never planned"),
        (Tag.parse, "job.x"),
        (Payer.parse, "chem"),
        (Payer.parse, "chem\x1fada\x1fbob"),
        (OwnedName.parse, "lease"),
        (SlurmTag.parse, "hpcqc:v2:scan:worker:0"),
        (SlurmTag.parse, "hpcqc:v1:3f2a9c01:scan:worker:0"),
        (SlurmTag.parse, "hpcqc:v2:3f2a9c01:scan:unknown:0"),
        (account_from_text, "chem"),
        (checked_run_id, "a~b"),
        (checked_run_id, "a/b"),
        (checked_run_id, ""),
        (checked_run_id, "service"),
        (Scope, "a~b"),
        (lambda unit: UnitKey("a-0", unit), "b-0~c-0"),
    ],
)
def test_a_text_of_another_kind_is_refused(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(IdentityError):
        parse(text)


def test_a_stage_without_a_name_is_another_than_none() -> None:
    with_none = JobRequest(run="r", stage=None, call=0, qpu="q")
    with_empty = JobRequest(run="r", stage="", call=0, qpu="q")
    assert with_none.job_id("d") != with_empty.job_id("d")
    moved = JobRequest(run="r\x1fs", stage="t", call=0, qpu="q")
    other = JobRequest(run="r", stage="s\x1ft", call=0, qpu="q")
    assert moved.job_id("d") != other.job_id("d")


def test_tags_of_both_versions_are_read() -> None:
    owner = SlurmOwner("night:scan", "3f2a9c01")
    tag = SlurmTag.parse("hpcqc:v2:3f2a9c01:night%3Ascan:worker:3")
    assert (tag, owner.has(tag)) == (owner.tag("worker", 3), True)
    old = SlurmTag.parse("hpcqc:v1:night%3Ascan:worker:3")
    assert (old, owner.has(old)) == (SlurmTag("night:scan", "worker", 3), False)
    assert str(old) == "hpcqc:v1:night%3Ascan:worker:3"


def test_texts_in_old_ledgers_and_folders_are_what_they_were() -> None:
    call = JobRequest(run="r", stage="s@vlq-77", call=2, qpu="vlq")
    assert call.job_id("d") == "j21f49f765290f66edbf4"
    assert replace(call, project="chem").job_id("d") == "j91b07138a7b0c7051155"
    assert str(Tag(JobId("j00"), 3)) == "j00.3"
    assert reuse_tag("77") == "reuse.77"
    assert results_audience("chem", shares=False) == "chem"
    assert results_audience("chem", shares=True) == "\x1fshared"
    assert str(OwnedName("ada", "run-1")) == "ada/run-1"
    assert str(ProjectAccount("chem")) == "project:chem"
    assert str(RunAccount("night-scan", "ada.l@site")) == "run:ada.l@site/night-scan"
    assert str(RunAccount("night-scan")) == "run:night-scan"
    assert account_from_text("run:ada/night/scan") == RunAccount("night/scan", "ada")
    assert Payer("chem", "ada").text == "chem\x1fada"
    assert str(Scope("scan", "9f-0~60-1")) == "scan~9f-0~60-1"
    assert identity.SERVICE_SCOPE == "service"
    assert str(UnitKey("flow", str(Occurrence("60", 1)))) == "flow~60-1"
    assert units_file_name("9f-0", "77") == "9f-0-77.units"
    assert lock_file_name("scan~9f-0") == "scan~9f-0.lock"
    assert str(ResultKey("scan", "9f-0")) == "hpcqc-scan-9f-0"
    assert CallStage("9f-0", "vlq-77").text == "9f-0@vlq-77"
    assert CallStage(None, "vlq-77").text == "@vlq-77"
    assert CallStage(None).text is None
    options = {"seed": 7, "profile": "vlq"}
    assert qpu_identity("vlq", "aer", options) == "vlq-d016032eeaf0ab5f"
    assert dated_run_id(_NOW, "0f3a9c") == "20260504-000000-0f3a9c"
    assert sample_run_id("0f3a9c") == "sample-0f3a9c"


def test_the_examples_in_the_module_hold() -> None:
    failed, tried = doctest.testmod(identity)
    assert tried
    assert not failed
