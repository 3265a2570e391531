"""The temporary Prefect server of a process, its logs and its settings during a run."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import pytest
from prefect import flow, get_run_logger, task
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_LOCAL_STORAGE_PATH,
    temporary_settings,
)

from orchestrator.application import prefect_setup
from orchestrator.application.prefect_setup import (
    launch_server,
    logs_to_file,
    on_server,
    visible_logs,
)


def test_a_process_starts_one_server_and_another_when_that_has_died(monkeypatch) -> None:
    monkeypatch.setattr(prefect_setup, "_started", [])
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        first = launch_server()
        assert first is not None
        assert launch_server() is first
        # As where Prefect was imported after the first run had set the environment.
        with temporary_settings(updates={PREFECT_API_URL: first.api_url}):
            assert launch_server() is first
            first.stop()
            second = launch_server()
    assert second is not None
    assert second is not first
    second.stop()


def test_a_server_that_the_user_chose_is_used() -> None:
    with temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert launch_server() is None


def test_logs_and_warnings_are_filed_for_the_time_of_a_run(tmp_path: Path) -> None:
    path, shown = tmp_path / "run.log", warnings.showwarning
    loggers = (logging.root, logging.getLogger("prefect"))
    before = [set(logger.handlers) for logger in loggers]
    with logs_to_file(path), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("prefect.flow_runs").warning("a word")
        warnings.warn("another", UserWarning, stacklevel=1)
    assert "a word" in path.read_text()
    assert "another" in path.read_text()
    assert [set(logger.handlers) for logger in loggers] == before
    assert warnings.showwarning is shown


@pytest.mark.usefixtures("prefect_server")
def test_a_line_about_a_task_run_has_its_name(tmp_path: Path) -> None:
    @task
    def relax() -> int:
        get_run_logger().warning("is long")
        return 1

    @flow
    def scan() -> None:
        relax.with_options(task_run_name="relax-of-lih")()

    path = tmp_path / "run.log"
    with logs_to_file(path):
        scan()
    lines = [line for line in path.read_text().splitlines() if "prefect.task_runs" in line]
    assert lines
    assert all("task run 'relax-of-lih': " in line for line in lines)


def test_what_the_end_of_a_run_causes_is_not_filed(tmp_path: Path) -> None:
    path, closing = tmp_path / "run.log", False

    def log(words: str) -> None:
        logging.getLogger("prefect.task_runs").error("failed %s", words)
        logging.getLogger("prefect.flow_runs").warning("said %s", words)
        logging.getLogger("distributed.worker").warning("lost %s", words)
        logging.getLogger("elsewhere").error("wrong %s", words)

    with logs_to_file(path, is_closing=lambda: closing):
        log("before")
        closing = True
        log("meanwhile")
    said = [line.split(" | ")[-1] for line in path.read_text().splitlines()]
    # Prefect's threads of the test before may still log.
    lines = [words for words in said if words.endswith((" before", " meanwhile"))]
    before = [f"{word} before" for word in ("failed", "said", "lost", "wrong")]
    assert lines == [*before, "said meanwhile", "wrong meanwhile"]


def test_what_would_act_on_a_terminal_is_escaped_in_logs(tmp_path: Path) -> None:
    path, printed = tmp_path / "run.log", io.StringIO()
    logger = logging.getLogger("prefect.flow_runs")
    handler = PrefectConsoleHandler(stream=printed)

    def fail() -> None:
        try:
            raise RuntimeError("\x1b]0;title\x07 and \u202eback")
        except RuntimeError:
            logger.exception("a \x1b[31mword")

    with logs_to_file(path):
        fail()
    logger.addHandler(handler)
    try:
        with visible_logs():
            fail()
        first = printed.getvalue()
        fail()
    finally:
        logger.removeHandler(handler)
    # Afterwards the handler is as it was.
    assert "\u202e" in printed.getvalue().removeprefix(first)
    for text in (path.read_text(), first):
        assert r"\x1b]0;title\x07" in text
        assert r"\u202e" in text
        assert not any(character in text for character in "\x1b\x07\u202e")


def test_warnings_are_filed_although_an_earlier_run_filed_its_own_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefect = logging.getLogger("prefect")
    monkeypatch.setattr(prefect, "propagate", prefect.propagate)
    earlier, later = tmp_path / "earlier.log", tmp_path / "later.log"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        sinks = set(logging.root.handlers)
        with logs_to_file(earlier, for_good=True):
            pass
        with warnings.catch_warnings(record=True), logs_to_file(later):
            warnings.warn("another", UserWarning, stacklevel=1)
    for handler in set(logging.root.handlers) - sinks:
        for logger in (logging.root, prefect, logging.getLogger("prefect._internal")):
            logger.removeHandler(handler)
        handler.close()
    assert "another" in later.read_text()


def test_results_are_kept_beside_the_ledger_unless_the_user_chose_a_place(tmp_path: Path) -> None:
    chosen, beside = tmp_path / "chosen", tmp_path / "results"

    def storage(*, keep_chosen: bool) -> Path:
        with on_server(None, agent=None, results=beside, keep_chosen=keep_chosen):
            return PREFECT_LOCAL_STORAGE_PATH.value()

    assert storage(keep_chosen=True) == beside
    with temporary_settings(updates={PREFECT_LOCAL_STORAGE_PATH: chosen}):
        assert storage(keep_chosen=True) == chosen
        assert storage(keep_chosen=False) == beside
