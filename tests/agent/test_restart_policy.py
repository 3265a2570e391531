"""When something that died is started again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.agent.supervisor import RestartPolicy
from orchestrator.agent.worker import killed_by_signal

times = st.lists(st.floats(0, 1000), max_size=50).map(sorted)


@given(times)
def test_a_wait_is_bounded_and_never_shrinks_with_more_deaths(deaths):
    policy = RestartPolicy(first_s=0.5, longest_s=8.0, window_s=100.0)
    now = deaths[-1] if deaths else 0.0
    delay = policy.delay_s(deaths, now)
    assert delay is not None
    assert 0.5 <= delay <= 8.0
    more = policy.delay_s([*deaths, now], now)
    assert more is not None
    assert more >= delay


@given(times)
def test_deaths_of_long_ago_do_not_count(deaths):
    policy = RestartPolicy(window_s=100.0, limit=2)
    assert policy.delay_s([*deaths, 5000.0], now=5000.0) == policy.first_s


def test_it_gives_up_at_its_limit():
    policy = RestartPolicy(first_s=1.0, limit=3)
    assert policy.delay_s([1.0, 2.0], now=2.0) == 2.0
    assert policy.delay_s([1.0, 2.0, 3.0], now=3.0) is None


def test_a_death_by_signal_is_told_from_an_ending():
    says = "Process exited with status code: {}. Typically, this is …"
    assert killed_by_signal(says.format(-9))
    assert killed_by_signal(says.format(137))
    assert not killed_by_signal(says.format(1))
    assert not killed_by_signal("Flow run could not start: no such file")
    assert not killed_by_signal(None)
