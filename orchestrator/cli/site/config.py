"""``hpcqc config``: the site's configuration, shown and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, Settings, SiteFile, path
from orchestrator.cli.output import print_error, print_json, say

if TYPE_CHECKING:
    from orchestrator.config.broker_tables import BrokerLimits
    from orchestrator.config.site import Site

__all__ = ["config_check", "config_lines", "config_show"]


def config_show(
    site: SiteFile = None,
    setting: Settings = None,
    job_script: Annotated[
        bool,
        typer.Option(
            "--job-script", help="Print the batch script of a worker job on Slurm instead."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the configuration in force and where it was found."""
    from orchestrator.config.loading import load_site
    from orchestrator.provenance.record import site_document

    found = load_site(site, setting or ())
    if job_script:
        from orchestrator.application.job_script import worker_job_script

        text = worker_job_script(found)
        if as_json:
            print_json({"job_script": text})
        else:
            say(text.removesuffix("\n"))
        return
    if as_json:
        print_json(site_document(found))
        return
    say(f"# from: {found.source}")
    say(f"# state: {found.state_dir}")
    for line in config_lines(found):
        say(line)


def config_check(
    file: Annotated[
        Path | None,
        typer.Argument(parser=path, metavar="[FILE]", help="The one found, if not given."),
    ] = None,
    named: SiteFile = None,
    setting: Settings = None,
    as_json: Json = False,
) -> None:
    """Check a site file down to each backend's options; exit 2 if something is wrong.

    QPUs behind a wire are asked, too: one that does not answer is not known, which is no fault; one
    that refuses the credentials is one.
    """
    from pydantic_core import to_jsonable_python

    from orchestrator.application.qpus import check_qpus
    from orchestrator.cli.broker.qpus import readiness_facts
    from orchestrator.cli.errors import MISTAKE
    from orchestrator.config.loading import load_site

    if file is not None and named is not None:
        raise typer.BadParameter("give one site file, as an argument or with --site")
    site = load_site(file or named, setting or ())
    checks = check_qpus(site)
    bad = {name: check.fault for name, check in checks.items() if check.fault is not None}
    asked = {name: check.facts for name, check in checks.items() if check.facts is not None}
    if as_json:
        qpus = {name: check.fault or "ok" for name, check in checks.items()}
        found = to_jsonable_python(asked)
        print_json({"source": site.source, "ok": not bad, "qpu": qpus, "facts": found})
    else:
        for name, fault in bad.items():
            print_error(f"{site.source}: [qpu.{name}] {fault}")
        for name, facts in asked.items():
            if name not in bad:
                say(f"{name}: {readiness_facts(facts)['status']}", stderr=not facts.operational)
        if not bad:
            say(f"{site.source}: in order; QPUs: {', '.join(checks)}")
    raise typer.Exit(MISTAKE if bad else 0)


def config_lines(site: Site) -> list[str]:
    """Return a site as the lines of a file that means the same."""
    from backends.site_options import SITE_OPTIONS
    from orchestrator.provenance.record import site_document

    document = site_document(site)
    lines = ["", "[site]"]
    lines += [
        f"{key} = {_value(document[key])}" for key in ("name", "default_qpu", "default_compute")
    ]
    lines += _given({key: document[key] for key in ("coupling", "labels", "keep_days", "keep_gib")})
    for name, compute in document["compute"].items():
        lines += ["", f"[compute.{_key(name)}]"]
        lines += _given({key: value for key, value in compute.items() if key != "name"})
    for name, qpu in document["qpu"].items():
        options = dict(qpu["options"])
        lines += ["", f"[qpu.{_key(name)}]", f"backend = {_value(qpu['backend'])}"]
        direct = [option.name for option in SITE_OPTIONS if option.name in options]
        lines += [f"{key} = {_value(options.pop(key))}" for key in direct]
        stated = ("uncertain", "longest_task_s", "accepts", "jurisdictions")
        lines += _given({key: qpu[key] for key in stated})
        if options:
            lines.append(f"options = {_value(options)}")
        lines += _schedule_lines(f"qpu.{_key(name)}.schedule", qpu["schedule"])
        if qpu["slurm"] is not None:
            lines += ["", f"[qpu.{_key(name)}.slurm]", *_given(qpu["slurm"])]
    service = dict(document["broker"])
    limits = _limit_lines(site.broker.limits)
    del service["limits"]
    broker = _given({key: value for key, value in service.items() if value})
    batch = _given(document["batch"])
    return [
        *lines,
        *(["", "[broker]", *broker] if broker else []),
        *limits,
        *(["", "[batch]", *batch] if batch else []),
        *(["", "[choice]", *_given(document["choice"])] if document["choice"] else []),
        *(
            line
            for name, project in document["project"].items()
            for line in ("", f"[project.{_key(name)}]", *_given(project))
        ),
        *(
            line
            for name, link in document["link"].items()
            for line in ("", f"[link.{_key(name)}]", *_link_lines(link))
        ),
    ]


def _link_lines(link: Mapping[str, Any]) -> list[str]:
    """Return a link's settings; that it accepts any peer or key exchange is said, too."""
    empty = [f"{key} = []" for key in ("peers", "groups") if link.get(key) == []]
    return [*_given(link), *empty]


def _limit_lines(limits: BrokerLimits) -> list[str]:
    """Return the table of limits; nothing if they are the usual ones."""
    from orchestrator.config.broker_tables import BrokerLimits

    if limits == BrokerLimits():
        return []
    return [
        "",
        "[broker.limits]",
        *(
            f'{name} = "{value} B"'
            if name.startswith(("stored", "reserve"))
            else f"{name} = {value}"
            for name, value in limits
        ),
    ]


def _schedule_lines(table: str, schedule: dict[str, Any]) -> list[str]:
    windows = schedule.pop("window")
    lines = ["", f"[{table}]", *_given(schedule)]
    for window in windows:
        # Times are TOML's own, and stand without quotes.
        times = [(key, window.pop(key)) for key in ("start", "end")]
        once = [f"{key} = {at}" for key, at in times if at is not None]
        lines += ["", f"[[{table}.window]]", *once, *_given(window)]
    return lines


def _given(settings: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting; what is not set, or empty, needs none."""
    given = {k: v for k, v in settings.items() if v is not None and v not in ({}, [], "")}
    return [f"{key} = {_value(value)}" for key, value in given.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for the one control character that JSON lets through.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        if value.keys() == {"source", "where"}:  # a reference to a secret
            return f"{{ {value['source']} = {_value(value['where'])} }}"
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    return str(value)


def _key(name: str) -> str:
    plain = name.replace("-", "").replace("_", "").isalnum() and name.isascii()
    return name if plain else _value(name)
