"""The reference of the command line, the configuration and run records, made from the code.

``python -m orchestrator.cli.reference docs/reference`` writes it; a test compares.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["cli_page", "config_page", "record_schema", "write_pages"]

_MADE = "<!-- Made by `python -m orchestrator.cli.reference docs/reference`; do not edit. -->\n"

_CODES = """
## Exit codes

| code | means |
|---|---|
| 0 | done |
| 1 | it failed: the flow raised, `doctor` found something broken |
| 2 | something given is wrong and nothing was started, or a stage refused its input |
| 130 | interrupted with Ctrl-C; quantum jobs were cancelled (143: by SIGTERM, 129: by SIGHUP) |

Errors are one paragraph on stderr. With `--json`, stdout holds exactly one JSON document, and what
a flow prints goes to stderr; an error is `{"error": {"kind": ..., "message": ...}}`.

## What a run leaves behind

`hpcqc run` writes a folder, `hpcqc-runs/<run id>` if `--out` names no other:

| file | holds |
|---|---|
| `run.json` | parameters, site, versions, machine, every stage and quantum job with times, usage, \
charges, method, seed, calibration and slices; there from the start, replaced at the end |
| `result.json` | what the flow returned; only if it completed |
| `report.html` | one page that needs no network: plot, table, summary, Gantt chart, usage, jobs |
| `plot.png`, `gantt.png` | the pictures in it |
| `run.log` | Prefect's log, warnings, and the traceback of a failure |
| `stages.jsonl` | stages as they ended, one a line, so that a killed run keeps what it had |

[run.schema.json](run.schema.json) is the JSON Schema of `run.json`. Its `version` rises when a
change would break readers; records of earlier versions are still read. Readers should ignore keys
that they do not know.

`hpcqc report RUN` writes `report.html` again from `run.json` alone, also from those of earlier
versions. Plot, table and summary of the result are in the record; the rest of the result is shown if
`result.json` is beside it.

A run that failed, was interrupted or was killed is continued by the same command with its
`--run-id`: stages and quantum jobs that finished are not run again.

## What a flow may return

Anything: `result.json` holds it, with arrays as lists and NaN as null. If it is a dictionary with
`plot`, `table` or `summary`, these are drawn and printed:

```python norun it shows a form
{
    "plot": {
        "title": "...",
        "x_label": "...",
        "y_label": "...",
        "x": [0.5, 1.0],
        "series": [{"label": "exact", "y": [-1.0, -1.1], "style": "line"}],
    },
    "table": {"columns": ["R", "E"], "rows": [[0.5, -1.0], [1.0, -1.1]]},
    "summary": ["a line of text"],
}
```

`style` is `line` or `points`; a series may have `y_error`, one standard error per value. A `plot` of
any other form is a figure of Matplotlib, or an SVG document as text; it is kept as `plot.svg`.
"""

_SITE = """\
A site is a TOML file: its QPUs, where classical stages run, and which of them are meant where
nothing is said.
"""

_LOOKUP = """
## Where it is looked for

The first that there is, and it alone:

1. `--site FILE`
2. `HPCQC_SITE`
3. `hpcqc.toml` in the working folder
4. `hpcqc/hpcqc.toml` in the user's configuration folder (`XDG_CONFIG_HOME`, else `~/.config`)
5. the built-in laptop: QPU `aer`, one more QPU for each shipped device profile with its clock \
stopped (`time_scale = 0`), and Dask on every core

A file says everything: the laptop's QPUs are not added to it. `hpcqc config show` prints what is in
force and where it was found, in the form of a file to start from.

`--set KEY=VALUE` changes one setting for one command, `--set qpu.vlq.longest_task_s=60`; values are TOML,
and plain text where they are not.

An unknown key is an error that names the nearest one, and a file that is not TOML one with line and
column.

## Secrets

Wherever an option takes a value, it may take a reference instead: `{ env = "NAME" }` is read from the
environment and `{ file = "PATH" }` from a file, just before the backend is made. Neither is ever
written to a record, a ledger or a log. Relative paths are relative to the site file.
"""


def cli_page() -> str:
    """Return the Markdown of every command with its arguments and options."""
    from typer.main import get_command

    from orchestrator.cli.app import app

    root: Any = get_command(app)
    parts = [_MADE, "# Command line\n", f"{root.help}\n"]
    parts += [_command_part(path, command) for path, command in _leaves(root, "hpcqc")]
    return "\n".join(parts) + _CODES


def config_page() -> str:
    """Return the Markdown of every key of a site file and every environment variable."""
    from orchestrator.config.bounds import LeaseBounds, Rate
    from orchestrator.config.environment import VARIABLES
    from orchestrator.config.site import (
        BrokerLimits,
        BrokerSettings,
        ComputeTable,
        QpuTable,
        ScheduleSettings,
        SiteTable,
        WindowSettings,
    )

    example = (
        '```toml\n[site]\nname = "laptop"\ndefault_qpu = "aer"\n\n[compute.local]\nworkers = 2\n\n'
        '[qpu.aer]\nbackend = "aer"\n\n[qpu.vlq]\nbackend = "aer"\nprofile = "vlq"\n'
        "time_scale = 0\n```\n"
    )
    parts = [
        _MADE,
        "# Configuration\n",
        _SITE,
        example,
        _section_part("[site]", SiteTable),
        _section_part("[compute.NAME]", ComputeTable),
        _section_part("[qpu.NAME]", QpuTable),
        _section_part("[qpu.NAME.schedule]", ScheduleSettings),
        _section_part("[qpu.NAME.schedule.rate]", Rate),
        _section_part("[qpu.NAME.schedule.lease]", LeaseBounds),
        _section_part("[[qpu.NAME.schedule.window]]", WindowSettings),
        _section_part("[broker]", BrokerSettings),
        _section_part("[broker.limits]", BrokerLimits),
    ]
    rows = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in VARIABLES.items())
    variables = f"\n## Environment variables\n\n| variable | means |\n|---|---|\n{rows}"
    return "\n".join(parts) + _LOOKUP + variables


def record_schema() -> str:
    """Return the JSON Schema of ``run.json``."""
    from orchestrator.provenance.schema import RunRecord

    schema = RunRecord.model_json_schema(mode="serialization")
    document = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write_pages(folder: Path) -> None:
    """Write both pages and the schema of run records."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cli.md").write_text(cli_page(), encoding="utf-8")
    (folder / "config.md").write_text(config_page(), encoding="utf-8")
    (folder / "run.schema.json").write_text(record_schema(), encoding="utf-8")


def _leaves(command: Any, path: str) -> list[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if not children:
        return [(path, command)]
    return [leaf for name, child in children.items() for leaf in _leaves(child, f"{path} {name}")]


def _command_part(path: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    names = " ".join(p.metavar or p.name.upper() for p in arguments)
    usage = " ".join(part for part in (path, names, "[OPTIONS]") if part)
    lines = [f"## {path}\n", f"{command.help}\n", f"    {usage}\n"]
    rows = [(f"`{p.metavar or p.name.upper()}`", p.help or "") for p in arguments]
    rows += [(_option_name(p), _option_text(p)) for p in options if p.name != "help"]
    if rows:
        lines.append("| | |\n|---|---|")
        lines += [f"| {name} | {text} |" for name, text in rows]
        lines.append("")
    return "\n".join(lines)


def _option_name(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    return names if option.is_flag else f"{names} `{option.metavar}`"


def _option_text(option: Any) -> str:
    text = option.help or ""
    default = option.default
    shown = isinstance(default, int) and not isinstance(default, bool)
    return f"{text} Default: {default}." if shown else text


def _section_part(title: str, model: type[BaseModel]) -> str:
    lines = [f"## `{title}`\n", "| key | type | default | means |", "|---|---|---|---|"]
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        kind = _kind(schema["properties"][name])
        default = "required" if field.is_required() else _default(field.default)
        if kind == "text" and isinstance(field.default, int):  # a size, kept as bytes
            default = _default((field.examples or [""])[0].strip("'"))
        lines.append(f"| `{name}` | {kind} | {default} | {field.description} |")
    return "\n".join([*lines, ""])


def _kind(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return "text"
    options = [schema, *schema.get("anyOf", ())]
    names = ["object" if "$ref" in one else one.get("type", "null") for one in options]
    known = {
        "array": "list",
        "integer": "whole number",
        "number": "number",
        "object": "table",
        "string": "text",
    }
    return next(known[name] for name in names if name != "null")


def _default(value: Any) -> str:
    if isinstance(value, str) and value:
        return f'`"{value}"`'
    return f"`{value:g}`" if isinstance(value, float) else ""


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
