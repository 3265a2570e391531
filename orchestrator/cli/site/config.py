"""``hpcqc config`` and ``hpcqc doctor``: whether what is set up can work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backends.site_options import SITE_OPTIONS
from orchestrator.application.errors import reason
from orchestrator.cli.errors import FAILED, MISTAKE
from orchestrator.cli.output import open_console, print_error, print_json, say, tabulate
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import BrokerLimits, QpuSettings, Site
from orchestrator.doctor import diagnose
from orchestrator.provenance.record import site_document

__all__ = ["config_lines", "tell_config", "tell_config_check", "tell_diagnosis"]


def tell_config(site_file: Path | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Write the configuration in force. Secrets show as where they are kept."""
    site = load_site(site_file, overrides)
    if as_json:
        print_json(site_document(site))
        return
    say(f"# from: {site.source}")
    say(f"# state: {site.state_dir}")
    for line in config_lines(site):
        say(line)


def tell_config_check(site_file: Path | None, overrides: Sequence[str], *, as_json: bool) -> int:
    """Write whether every QPU's backend takes its options; return the exit code.

    Raises ``ConfigError`` where the file itself is wrong.
    """
    site = load_site(site_file, overrides)
    faults = {name: _fault(settings) for name, settings in site.qpus.items()}
    bad = {name: fault for name, fault in faults.items() if fault is not None}
    if as_json:
        qpus = {name: fault or "ok" for name, fault in faults.items()}
        print_json({"source": site.source, "ok": not bad, "qpu": qpus})
    else:
        for name, fault in bad.items():
            print_error(f"{site.source}: [qpu.{name}] {fault}")
        if not bad:
            say(f"{site.source}: in order; QPUs: {', '.join(faults)}")
    return MISTAKE if bad else 0


def tell_diagnosis(site_file: Path | None, *, as_json: bool) -> int:
    """Write every finding; return the exit code, which is not 0 if something is broken."""
    checks = diagnose(site_file)
    broken = [check for check in checks if check.state == "broken"]
    if as_json:
        print_json({"ok": not broken, "checks": checks})
    else:
        rows = [[check.state, check.name, check.detail] for check in checks]
        tabulate(("", "what", "found"), rows)
        console = open_console()
        if broken:
            console.print(f"{len(broken)} broken", style="bold red")
        else:
            console.print("nothing is broken", style="green")
    return FAILED if broken else 0


def config_lines(site: Site) -> list[str]:
    """Return a site as the lines of a file that means the same."""
    document = site_document(site)
    lines = ["", "[site]"]
    lines += [
        f"{key} = {_value(document[key])}" for key in ("name", "default_qpu", "default_compute")
    ]
    lines += _given({key: document[key] for key in ("keep_days", "keep_gib")})
    for name, compute in document["compute"].items():
        lines += ["", f"[compute.{_key(name)}]"]
        lines += _given({key: value for key, value in compute.items() if key != "name"})
    for name, qpu in document["qpu"].items():
        options = dict(qpu["options"])
        lines += ["", f"[qpu.{_key(name)}]", f"backend = {_value(qpu['backend'])}"]
        direct = [option.name for option in SITE_OPTIONS if option.name in options]
        lines += [f"{key} = {_value(options.pop(key))}" for key in direct]
        lines += _given({key: qpu[key] for key in ("uncertain", "longest_task_s")})
        if options:
            lines.append(f"options = {_value(options)}")
        lines += _schedule_lines(f"qpu.{_key(name)}.schedule", qpu["schedule"])
    stated = dict(document["broker"])
    limits = _limit_lines(site.broker.limits)
    del stated["limits"]
    broker = _given({key: value for key, value in stated.items() if value})
    return [*lines, *(["", "[broker]", *broker] if broker else []), *limits]


def _limit_lines(limits: BrokerLimits) -> list[str]:
    """Return the table of limits; nothing if they are the usual ones."""
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


def _fault(settings: QpuSettings) -> str | None:
    from backends import registry
    from backends.api import BackendError
    from orchestrator.broker.runtime.site_rules import check_schedules

    try:
        check_schedules([settings], datetime.now(UTC))
        registry.describe(settings.backend, resolve_secrets(settings.options))
    except (ValueError, BackendError) as error:
        return reason(error)
    return None


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
