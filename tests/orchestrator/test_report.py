"""A run's record, its picture and its page, from what happened in it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from backends.api import Usage
from backends.metering import Charge
from orchestrator.broker.core.views import JobState, JobView, QpuTaskState, QpuTaskView
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import SecretRef
from orchestrator.identity import CallStage, JobId
from orchestrator.provenance.charts import draw_gantt
from orchestrator.provenance.folder import RunFolder
from orchestrator.provenance.gantt import stage_name, timeline_of
from orchestrator.provenance.outcome import outcome_of
from orchestrator.provenance.record import (
    merged_stages,
    recorded_job,
    recorded_stage,
    run_record,
    site_document,
)
from orchestrator.provenance.report import (
    leftover_lines,
    report_html,
    stage_rows,
    stage_total,
    usage_rows,
)
from orchestrator.provenance.schema import (
    VERSION,
    RecordedAttempt,
    RecordedSite,
    RecordedUsage,
    RunRecord,
    RunUsage,
)
from orchestrator.provenance.values import json_text
from orchestrator.runs import StageSpan

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SITE = RecordedSite.model_validate(site_document(load_site(environ={"HOME": "/nowhere"})))
EMPTY = {"usage": RunUsage(total=RecordedUsage(), per_qpu={}), "stages": (), "jobs": ()}
DONE_AND_FAILED = (("a", "completed"), ("b", "failed"))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def span(key: str, start: float, end: float | None, **changes) -> StageSpan:
    first = StageSpan(
        key=key,
        name=f"{key}-a1b",
        kind="classical",
        state="completed" if end is not None else "running",
        started_at=at(start),
        ended_at=None if end is None else at(end),
        where="local",
    )
    return replace(first, **changes)


def task(number: int, start: float, end: float, unit: str) -> QpuTaskView:
    return QpuTaskView(
        tag=f"t{number}",
        qpu_task=f"x{number}",
        state=QpuTaskState.COMPLETED,
        starts=1,
        shots=200,
        planned_at=at(start),
        started_at=at(start),
        ended_at=at(end),
        usage=Usage(
            qpu_seconds=0.5,
            shots=200,
            circuits=1,
            tasks=1,
            charges=(Charge(amount=1.25, unit=unit),),
        ),
        metadata={"method": ["stabilizer"], "calibration_id": "c-1"},
    )


def job(name: str, qpu: str, tasks: tuple[QpuTaskView, ...]) -> JobView:
    return JobView(
        id=JobId(name),
        qpu=qpu,
        backend="aer",
        kind="sampler",
        state=JobState.COMPLETED,
        run="r1",
        stage="b",
        call=0,
        digest="d",
        pubs=1,
        circuits=1,
        shots=200 * len(tasks),
        num_qubits=2,
        seed=7,
        submitted_at=at(1),
        started_at=at(2),
        ended_at=at(5),
        usage=sum((t.usage for t in tasks), start=Usage()),
        tasks=tasks,
    )


def attempt(start: float, end: float | None, status: str = "completed") -> RecordedAttempt:
    ended_at = None if end is None else at(end)
    return RecordedAttempt(started_at=at(start), ended_at=ended_at, status=status)


def record(**changes) -> RunRecord:
    facts = RunRecord(
        id="r1",
        target="<b>.py:flow",
        flow="flow & co",
        parameters={"x": "<script>alert(1)</script>", "n": 3},
        qpu="vlq",
        site=SITE,
        status="completed",
        started_at=at(0),
        ended_at=at(9),
        attempts=[attempt(0, 9)],
        **EMPTY,
        versions={"hpcqc": "0.1.0"},
        machine={"host": "h", "cores": 2},
    )
    spans = [
        span("a", 0, 1),
        span("a", 0.5, 2),
        span("b", 1, 6, kind="quantum", where="vlq"),
        span("c", 6, 7, state="failed", error="ValueError: no"),
        span("d", 6, None),
    ]
    jobs = [
        job("j1", "vlq", (task(1, 2, 3, "billed-s"), task(2, 3, 5, "billed-s"))),
        job("j2", "piast-q", (task(3, 2, 3, "device-s"),)),
    ]
    return run_record(facts.model_copy(update=changes), merged_stages([], spans), jobs)


def test_usage_is_summed_per_qpu_and_charges_per_unit() -> None:
    usage = record().usage
    assert usage.per_qpu["vlq"].charges == {"billed-s": 2.5}
    assert usage.per_qpu["vlq"].tasks == 2
    assert usage.total.charges == {"billed-s": 2.5, "device-s": 1.25}
    assert usage.total.shots == 600
    assert usage_rows(record())[1] == ["piast-q", 1, 1, 1, 200, 0.5, "1.25 device-s"]


def test_a_job_tells_its_slices_method_seed_and_calibration() -> None:
    first = record().jobs[0]
    assert (first.slices, first.methods, first.calibrations) == (2, ("stabilizer",), ("c-1",))
    assert (first.seed, first.waited_s, first.duration_s) == (7, 1.0, 3.0)
    assert [task.duration_s for task in first.tasks] == [1.0, 2.0]


def test_what_a_job_took_has_no_pause_between_its_tasks() -> None:
    view = job("j1", "vlq", (task(1, 2, 3, "billed-s"), task(2, 500, 503, "billed-s")))
    paused = recorded_job(replace(view, started_at=at(2), ended_at=at(503)))
    assert (paused.duration_s, paused.worked_s) == (501.0, 1.0)
    assert [task.worked_s for task in paused.tasks] == [0.5, 0.5]


@pytest.mark.parametrize("state", [QpuTaskState.CANCELLED, QpuTaskState.FAILED])
def test_a_task_whose_end_was_noticed_late_took_what_the_ledger_has(state: QpuTaskState) -> None:
    lost = replace(task(1, 2, 900, "billed-s"), state=state, usage=Usage(), metadata={})
    stopped = replace(lost, tag="t2", usage=Usage(qpu_seconds=1.5))
    recorded = recorded_job(replace(job("j1", "vlq", (lost, stopped)), ended_at=at(900)))
    assert [one.worked_s for one in recorded.tasks] == [0.0, 1.5]
    assert (recorded.worked_s, recorded.usage.qpu_seconds) == (1.5, 1.5)


def test_a_record_is_json() -> None:
    document = record()
    assert RunRecord.model_validate_json(json_text(document)) == document
    written = json.loads(json_text(document))
    assert written["version"] == VERSION
    assert written["started_at"] == "2026-03-01T12:00:00+00:00"


def test_only_the_time_at_work_counts() -> None:
    attempts = [attempt(0, 2), attempt(100, None), attempt(200, 203)]
    assert record(attempts=attempts, ended_at=at(203)).duration_s == 5.0
    assert record(status="running", ended_at=None).duration_s is None


def test_stages_of_a_continued_run_show_once() -> None:
    earlier = [recorded_stage(span("a", 0, 1)), recorded_stage(span("b", 1, 2, state="failed"))]
    now = [
        span("a", 50, 50, state="cached"),
        span("b", 51, 55),
        span("z", 52, 52, state="cached"),
    ]
    shown = [(s.key, s.state) for s in merged_stages(earlier, now)]
    assert shown == [("a", "completed"), ("b", "failed"), ("b", "completed"), ("z", "cached")]


def test_processes_that_programs_left_are_shown_for_their_stage() -> None:
    spans = [span("a", 0, 1, leftover=2), span("b", 1, 2), span("a2", 2, 3, leftover=1)]
    spans[2] = replace(spans[2], name=spans[0].name)
    found = run_record(record(), merged_stages([], spans), [])
    (line,) = leftover_lines(found)
    assert "3 processes" in line
    assert line in report_html(found, outcome_of(None), {})
    assert leftover_lines(record()) == []


def test_secrets_do_not_get_into_a_record(monkeypatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    site = load_site(
        overrides=[
            'qpu.aer.options.token={ env = "TOKEN" }',
            "qpu.aer.options.deep.password=s3cret",
            "qpu.aer.options.url=https://x",
            "qpu.aer.options.mirrors=['https://ada:s3cret@x:8443/y', 'https://s3cret@z']",
        ]
    )
    assert site.qpus["aer"].options["token"] == SecretRef(source="env", where="TOKEN")
    shown = site_document(site)["qpu"]["aer"]["options"]
    assert shown == {
        "token": {"source": "env", "where": "TOKEN"},
        "deep": {"password": "(hidden)"},
        "url": "https://x",
        "mirrors": ["https://(hidden)@x:8443/y", "https://(hidden)@z"],
    }


def test_what_overlaps_gets_a_row_of_its_own() -> None:
    lanes = timeline_of(record()).lanes
    names = [lane.name for lane in lanes]
    assert names == ["local", "", "quantum stages", "QPU piast-q", "QPU vlq"]
    for lane in lanes:
        ends = [bar.start_s + bar.length_s for bar in lane.bars]
        starts = [bar.start_s for bar in lane.bars]
        assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert {bar.label for bar in lanes[0].bars} <= {"a", "b", "c", "d"}
    assert lanes[2].waits


def test_nothing_that_ran_is_no_timeline() -> None:
    empty = run_record(_facts_only(), [], [])
    assert timeline_of(empty).lanes == ()


def test_many_stages_stay_within_few_rows() -> None:
    spans = [span(f"s{i}", 0, 10) for i in range(300)]
    document = run_record(_facts_only(), merged_stages([], spans), [])
    lanes = timeline_of(document).lanes
    assert len(lanes) == 10
    assert sum(len(lane.bars) for lane in lanes) == 300


@pytest.mark.parametrize(
    ("name", "plain"),
    [("energy-0", "energy"), ("energy-3fa", "energy"), ("x-ray", "x-ray"), ("-1", "-1")],
)
def test_stage_names(name, plain) -> None:
    assert stage_name(name) == plain


def test_stages_are_counted_by_name() -> None:
    rows = {row[0]: row[1:] for row in stage_rows(record())}
    assert rows["a"] == ["classical", 2, 2, 0, 0, 2.5, 0.0, ["local"]]
    assert rows["c"] == ["classical", 1, 0, 0, 1, 1.0, 0.0, ["local"]]


def test_waiting_for_a_worker_is_no_work() -> None:
    """Twelve stages handed to one worker at once: 12 s of work, not 78."""
    spans = [
        span(f"s{i}", 0, i + 1, name=f"s-{i}", ran_from=at(i), ran_until=at(i + 1), worker="w")
        for i in range(12)
    ]
    document = run_record(_facts_only(), merged_stages([], spans), [])
    ((*_, worked_s, waited_s, _where),) = stage_rows(document)
    assert (worked_s, waited_s) == (12.0, 66.0)


def test_waiting_for_a_qpu_is_no_work() -> None:
    """The jobs of stage b are there from 1 s to 5 s; their three tasks take 0.5 s each."""
    rows = {row[0]: row[1:] for row in stage_rows(record())}
    assert rows["b"] == ["quantum", 1, 1, 0, 0, 2.5, 2.5, ["vlq"]]


def test_a_simulation_is_work_however_short_it_would_be_on_the_device() -> None:
    slow = replace(task(1, 2, 5, "billed-s"), metadata={"simulation_s": 2.75})
    spans = [span("b", 1, 6, kind="quantum", where="vlq")]
    document = run_record(_facts_only(), merged_stages([], spans), [job("j1", "vlq", (slow,))])
    stage = document.stages[0]
    assert (stage.worked_s, stage.waited_s) == (3.75, 1.25)


@pytest.mark.parametrize("qpu", ["vlq", "vlq@night"])
def test_a_stage_waits_for_a_qpu_that_it_opened_itself(qpu) -> None:
    slow = replace(task(1, 2, 5, "billed-s"), metadata={"simulation_s": 2.75})
    own = job("j1", "vlq", (slow,))
    spans = [span("b", 1, 6, where="local")]
    own = replace(own, stage=CallStage(own.stage, f"{qpu}-0a1b").text)
    document = run_record(_facts_only(), merged_stages([], spans), [own])
    stage = document.stages[0]
    assert (stage.worked_s, stage.waited_s) == (3.75, 1.25)


def test_the_chart_begins_and_ends_with_the_run() -> None:
    document = record(started_at=at(-4), attempts=[attempt(-4, 9)])
    timeline = timeline_of(document)
    assert timeline.length_s == document.duration_s == 13.0
    first = min(bar.start_s for lane in timeline.lanes for bar in lane.bars)
    assert first == 4.0


def test_no_time_passes_between_attempts() -> None:
    attempts = [
        attempt(0, None, "running"),  # it was killed; its last stage ended at 2 s
        attempt(100, 110),
    ]
    spans = [span("a", 0, 2), span("b", 103, 105)]
    facts = _facts_only().model_copy(update={"attempts": attempts, "ended_at": at(110)})
    timeline = timeline_of(run_record(facts, merged_stages([], spans), []))
    assert (timeline.length_s, timeline.seams_s) == (12.0, (2.0,))
    bars = [(bar.start_s, bar.length_s) for lane in timeline.lanes for bar in lane.bars]
    assert bars == [(0.0, 2.0), (5.0, 2.0)]


def test_a_task_of_two_jobs_is_one_bar() -> None:
    shared = task(1, 2, 3, "billed-s")
    jobs = [job("j1", "vlq", (shared,)), job("j2", "vlq", (shared,))]
    (lane,) = timeline_of(run_record(_facts_only(), [], jobs)).lanes
    assert len(lane.bars) == 1


@pytest.mark.parametrize("took_s", [0.0, 1e-6, 0.001])
def test_the_shortest_work_can_be_seen(took_s) -> None:
    facts = _facts_only().model_copy(update={"ended_at": at(1000)})
    starts = {1: 2, 2: 1000}
    tasks = tuple(task(n, start, start + took_s, "billed-s") for n, start in starts.items())
    jobs = [job("j1", "vlq", tasks)]
    svg = draw_gantt(timeline_of(run_record(facts, [], jobs))).svg
    bars = re.search(r'PolyCollection_1">(.*?)</g>', svg, re.DOTALL)
    assert bars is not None
    paths = re.findall(r' d="([^"]*)"', bars[1])
    assert len(paths) == 2
    for path in paths:
        places = [float(x) for x in re.findall(r"[ML] ([-0-9.e]+) ", path)]
        assert max(places) - min(places) > 1.0


def test_what_all_jobs_have_in_common_is_said_once() -> None:
    jobs = [job(f"j{i}", "vlq", (task(i, 2, 3 + i, "billed-s"),)) for i in range(3)]
    page = Page(report_html(run_record(_facts_only(), [], jobs), outcome_of(None), {}))
    assert "Each: QPU vlq, kind sampler, PUBs 1, circuits 1, qubits 2, shots 200, " in page.words
    assert page.words.count("sampler") == 1


def test_a_stage_that_a_later_attempt_ran_anew_is_one_stage() -> None:
    earlier = [recorded_stage(span(key, 0, 1, state=s)) for key, s in DONE_AND_FAILED]
    later = [span("a", 10, 10, state="cached"), span("b", 10, 12), span("c", 12, 13)]
    stages = merged_stages(earlier, later)
    assert [(s.key, s.state) for s in stages] == [
        ("a", "completed"),
        ("b", "failed"),
        ("b", "completed"),
        ("c", "completed"),
    ]
    assert stage_total(record().model_copy(update={"stages": stages})) == 3


class Page(HTMLParser):
    """What matters of a page: its tags, its text, and every address in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words = ""
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "data", "action", "poster")
        self.addresses += [value for name, value in attrs if name in names and value]

    def handle_data(self, data):
        self.words += data


RESULT = {
    "summary": ["every point within <0.3> mHa"],
    "table": {"columns": ["R", "E & more"], "rows": [[0.5, None], [1.0, -1.1]]},
    "plot": {
        "title": "N2 <curve>",
        "x_label": "R",
        "y_label": "E",
        "x": [0.5, 1.0, 1.5],
        "series": [
            {"label": "exact", "y": [-1.0, None, -1.2]},
            {"label": "VQE", "y": [-1.0, -1.1, -1.2], "style": "points", "y_error": [0.1] * 3},
        ],
    },
    "extra": {"deep": [1]},
}


def test_the_page_needs_nothing_but_itself(tmp_path) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.open("r1", "t")
    outcome = folder.write_report(record(), RESULT)
    folder.close()
    assert not outcome.notes
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not [a for a in page.addresses if not a.startswith(("#", "data:image/png"))]
    assert not re.findall(r"url\((?!#)[^)]*\)", text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.tags.count("svg") == 2
    assert "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert "<script>alert(1)</script>" in page.words  # as text
    assert "every point within <0.3> mHa" in page.words
    assert "E & more" in page.words
    assert "1.25 device-s" in page.words
    for image in ("plot.png", "gantt.png"):
        assert (tmp_path / "out" / image).read_bytes().startswith(b"\x89PNG")


def test_ids_of_two_pictures_do_not_meet(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.open("r1", "t")
    folder.write_report(record(), RESULT)
    folder.close()
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    plot, gantt = text.split("<svg")[1:3]
    clips = [set(re.findall(r'clipPath id="([^"]+)"', part)) for part in (plot, gantt)]
    assert clips[0]
    assert not clips[0] & clips[1]


def test_no_text_of_a_record_acts_on_the_page() -> None:
    """Every name, id and value that a record may hold is one that a page must escape."""
    hostile = "<script>alert(1)</script>\x1b[2J"
    fixed = {"version", "status", "state", "kind"}

    def marked(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            names = {name: hostile + name for name in value}
            if key not in ("per_qpu", "charges", "metadata", "parameters", "versions", "machine"):
                names = {name: name for name in value}
            return {names[name]: marked(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [marked(item, key) for item in value]
        text = isinstance(value, str) and key not in fixed and not key.endswith("_at")
        return hostile + value if text else value

    document = marked(json.loads(json_text(record(error="e"))))
    text = report_html(
        RunRecord.model_validate(document), outcome_of({"table": RESULT["table"]}), {}
    )
    assert "\x1b" not in text
    assert text.count("&lt;script&gt;") > 50
    assert "script" not in Page(text).tags


def test_a_failed_run_has_a_page_too() -> None:
    document = record(status="failed", error="PayloadRejected: <too wide>")
    page = Page(report_html(document, outcome_of(None), {}))
    assert "PayloadRejected: <too wide>" in page.words
    assert "failed" in page.words


def _facts_only() -> RunRecord:
    return RunRecord(
        id="r",
        target="t",
        flow="f",
        parameters={},
        qpu="aer",
        site=SITE,
        status="completed",
        started_at=at(0),
        ended_at=at(math.pi),
        attempts=(),
        versions={},
        machine={},
        **EMPTY,
    )
