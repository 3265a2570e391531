"""Whatever comes from elsewhere is printed so that it cannot act on the reader's terminal."""

from __future__ import annotations

import ast
import csv
import io
import json
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.broker.api.logs import json_line, log_entry, text_line
from orchestrator.cli import output
from orchestrator.cli.broker.projects import _COLUMNS, _write_csv
from orchestrator.cli.run.progress import Progress
from orchestrator.provenance.markup import templates
from orchestrator.wording import visible, visible_json

CLI = Path(output.__file__).parent
HOSTILE = (
    "a\x1b[31m\x1b]0;title\x07\x1b]52;c;aGk=\x07\x08\r\x00\x7f\x9b2J"
    "\u202eright\u2066\u200b\u200d\ufeff\u2028\U000e0041\ud800\u00ad z[bold]"
)
KEPT = set("\n\t")


def is_safe(text: str, kept: set[str] = KEPT) -> bool:
    return all(
        c in kept or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text
    )


@pytest.mark.slow
def test_every_character_is_seen_or_escaped() -> None:
    for start in range(0, sys.maxunicode, 4096):
        text = "x".join(map(chr, range(start, start + 4096)))
        shown = visible(text)
        assert is_safe(shown)
        assert is_safe(visible(text, lines=False), set())
        assert visible(shown) == shown
        document = json.dumps(text, ensure_ascii=False)
        assert is_safe(visible_json(document))
        assert json.loads(visible_json(document)) == text


def test_text_that_is_seen_stays_as_it_is() -> None:
    for text in ("", "plain", "Ångström α → β, 量子 ψ", "no\u00a0break\u2003wide", "two\n\tlines"):
        assert visible(text) == text
    assert visible("two\n\tlines", lines=False) == r"two\n\tlines"
    assert visible("\x1b\x9b\u202e\U000e0041") == r"\x1b\x9b\u202e\U000e0041"


def _printed_by_progress() -> None:
    state, usage = SimpleNamespace(value="queued"), SimpleNamespace(shots=0)
    waiting = SimpleNamespace(qpu=HOSTILE, state=state, usage=usage)
    Progress(list, lambda: [waiting], lambda _: [HOSTILE], sys.stderr).tick()


PRINTS = {
    "an error": lambda: output.print_error(HOSTILE),
    "a warning": lambda: output.print_warning(HOSTILE),
    "a line": lambda: output.say(HOSTILE),
    "raw text": lambda: output.write(HOSTILE, sys.stdout),
    "a table": lambda: output.tabulate(["a", "b"], [[HOSTILE, [HOSTILE]], [1, {"x": HOSTILE}]], HOSTILE),
    "facts": lambda: output.facts({HOSTILE: HOSTILE}, HOSTILE),
    "a document": lambda: output.print_json({HOSTILE: [HOSTILE]}),
    "a sheet": lambda: _write_csv([dict.fromkeys(_COLUMNS, HOSTILE)]),
    "progress": _printed_by_progress,
}  # fmt: skip


@pytest.mark.parametrize("kind", PRINTS)
def test_everything_that_is_printed_is_safe(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    PRINTS[kind]()
    printed = "".join(capsys.readouterr())
    assert "right" in printed
    assert is_safe(printed)
    assert "x1b" in printed or "u001b" in printed


def test_a_document_means_what_it_meant(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({HOSTILE: [HOSTILE, "Å"]})
    assert json.loads(capsys.readouterr().out) == {HOSTILE: [HOSTILE, "Å"]}
    _write_csv([dict.fromkeys(_COLUMNS, "two\nlines")])
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["project"] == r"two\nlines"


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.tabulate(["a"], [["[red]x[/]"]], "[bold]title[/bold]")
    output.facts({"[red]key": "value"}, "[bold]title")
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("[red]x[/]", "[bold]title[/bold]", "[red]key"))


@pytest.mark.parametrize("line", [json_line, text_line])
def test_a_line_of_the_log_is_one_safe_line(line: Any) -> None:
    entry = log_entry(datetime.now(UTC), "info", "queued", stage=HOSTILE, error=f"{HOSTILE}\n\n")
    text = line(entry)
    assert text.endswith("\n")
    assert is_safe(text[:-1], set())


@pytest.mark.parametrize(
    "part",
    [
        "{{ parts.table([text], [[text]]) }}",
        "{{ parts.facts({text: text}) }}",
        "{{ parts.paragraphs([text]) }}",
        "{{ parts.folded(text, {text: text}) }}",
        "{{ parts.figure('<svg></svg>', text) }}",
        "{% call parts.section(text) %}<p></p>{% endcall %}",
    ],
)
def test_pages_show_what_would_act_on_their_reader(part: str) -> None:
    template = templates().from_string('{% import "parts.html" as parts %}' + part)
    made = template.render(text=HOSTILE + "<script>")
    assert "right" in made
    assert is_safe(made)
    assert "<script>" not in made


def test_a_file_with_such_a_name_is_named_safely(hpcqc, tmp_path) -> None:
    path = tmp_path / "a\x1b[2J\u202eb.swf"
    path.write_text("\x1b]0;x\x07nonsense")
    told = hpcqc("simulate", "--swf", path, "--profile", "vlq")
    assert told.code != 0
    assert r"a\x1b[2J\u202eb.swf" in told.err
    assert is_safe(told.err)


def test_the_command_line_prints_in_one_place() -> None:
    """All that is printed goes through `orchestrator.cli.output`, which escapes it."""
    found = []
    for path in sorted(CLI.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "typer.echo", "click.echo") or called.endswith(
                    ("stdout.write", "stderr.write", "stdout.writelines", "stderr.writelines")
                ):
                    constant = all(isinstance(one, ast.Constant) for one in node.args)
                    found += [] if constant else [f"{path.name}:{node.lineno}: {called}"]
    assert found == []
