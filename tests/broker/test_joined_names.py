"""Names that are joined: no two inputs give one id, and the ids of old ledgers stay as they were."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.broker.client.protocol import Call, call_job_id
from orchestrator.broker.core.access import escaped, owned_name, unescaped
from orchestrator.broker.core.budgets import run_account, run_of
from orchestrator.broker.core.policies import Account
from orchestrator.broker.core.qpu_history import QpuHistory

# Names as an attacker would choose them: of the separators, and of what stands for them.
_NAMES = st.text(st.sampled_from('ab/%2F5\x1f~@:"\\'), max_size=6)
_PAIRS = st.tuples(_NAMES, _NAMES)
_NOW = datetime(2026, 5, 4, tzinfo=UTC)


@given(_PAIRS, _PAIRS)
def test_names_of_two_users_never_meet(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (owned_name(*one) == owned_name(*other)) is (one == other)


@given(_PAIRS, _PAIRS)
def test_accounts_of_runs_never_meet(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Of runs of one broker's users, of one process's, and of both."""
    accounts = [run_account(run, user) for user, run in (one, other)]
    assert (accounts[0] == accounts[1]) is (one == other)
    assert run_of(accounts[0]) == one


@given(_PAIRS, st.sampled_from("/\x1f"))
def test_what_is_escaped_comes_back(one: tuple[str, str], separator: str) -> None:
    assert separator not in escaped(one[0], separator)
    assert unescaped(escaped(one[0], separator), separator) == one[0]


@given(st.lists(_PAIRS, min_size=2, max_size=2, unique=True))
def test_uses_of_two_accounts_are_never_added_up(accounts: list[tuple[str, str]]) -> None:
    history = QpuHistory()
    for seconds, account in enumerate(accounts, start=1):
        history.use_by(Account(*account), seconds, _NOW)
    use = history.situation(_NOW, {}).use
    assert use == {Account(*account): n for n, account in enumerate(accounts, start=1)}


_CALLS = st.builds(
    Call, run=_NAMES, stage=st.none() | _NAMES, occurrence=st.integers(0, 3), qpu=_NAMES
)


@given(*[st.tuples(_CALLS, _NAMES, _NAMES)] * 2)
def test_two_calls_never_are_one_job(
    one: tuple[Call, str, str], other: tuple[Call, str, str]
) -> None:
    assert (call_job_id(*one) == call_job_id(*other)) is (one == other)


def test_a_stage_without_a_name_is_another_than_none() -> None:
    with_none = Call(run="r", stage=None, occurrence=0, qpu="q")
    with_empty = Call(run="r", stage="", occurrence=0, qpu="q")
    assert call_job_id(with_none, "d") != call_job_id(with_empty, "d")
    moved = Call(run="r\x1fs", stage="t", occurrence=0, qpu="q")
    other = Call(run="r", stage="s\x1ft", occurrence=0, qpu="q")
    assert call_job_id(moved, "d") != call_job_id(other, "d")


def test_names_in_old_ledgers_are_what_they_were() -> None:
    assert owned_name("ada", "run-1") == "ada/run-1"
    assert run_account("night-scan", "ada.l@site") == "run:ada.l@site/night-scan"
    assert run_account("night-scan") == "run:night-scan"
    assert run_of("run:ada/night/scan") == ("ada", "night/scan")
    history = QpuHistory()
    history.use_by(Account("chem", "ada"), 1.0, _NOW)
    assert list(history.use) == ["chem\x1fada"]
