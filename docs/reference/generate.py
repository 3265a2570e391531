"""The generated parts of the reference: commands, configuration keys, profiles, Slurm's reasons, schema.

``python docs/reference/generate.py`` writes them between the markers of the pages; a test compares.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

from backends.profiles import Profile, load_profile, shipped
from orchestrator.cli.app import app
from orchestrator.config.bounds import ChoiceWeights, LeaseBounds, Rate
from orchestrator.config.environment import VARIABLES
from orchestrator.config.site import (
    BatchTable,
    BrokerLimits,
    BrokerSettings,
    ComputeTable,
    LinkTable,
    ProjectTable,
    QpuTable,
    ScheduleSettings,
    SiteTable,
    WindowSettings,
)
from orchestrator.config.slurm_access import QfwBounds, SlurmAccess
from orchestrator.provenance import outcome, schema
from orchestrator.slurm.explain import REASONS

__all__ = ["pages"]

_FOLDER = Path(__file__).parent
_ROOT = _FOLDER.parents[1]
_SECTIONS: dict[str, type[BaseModel]] = {
    "[site]": SiteTable,
    "[compute.NAME]": ComputeTable,
    "[qpu.NAME]": QpuTable,
    "[qpu.NAME.schedule]": ScheduleSettings,
    "[qpu.NAME.schedule.rate]": Rate,
    "[qpu.NAME.schedule.lease]": LeaseBounds,
    "[[qpu.NAME.schedule.window]]": WindowSettings,
    "[qpu.NAME.slurm]": SlurmAccess,
    "[qpu.NAME.slurm.qfw]": QfwBounds,
    "[broker]": BrokerSettings,
    "[broker.limits]": BrokerLimits,
    "[batch]": BatchTable,
    "[project.NAME]": ProjectTable,
    "[link.NAME]": LinkTable,
    "[choice]": ChoiceWeights,
}
_KINDS = {
    "array": "list",
    "boolean": "`true` or `false`",
    "integer": "whole number",
    "number": "number",
    "object": "table",
    "string": "text",
}


def pages() -> dict[str, str]:
    """Return the content that each file of the reference should have, by its name."""
    root = get_command(app)
    commands = "\n".join((f"{root.help}\n", *(_command(*leaf) for leaf in _leaves(root, "hpcqc"))))
    keys = "\n".join(_section(title, model) for title, model in _SECTIONS.items())
    variables = _table(("variable", "means"), [(f"`{k}`", text) for k, text in VARIABLES.items()])
    profiles = [_profile(load_profile(name)) for name in shipped()]
    record = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_record_schema()}
    return {
        "cli.md": _renewed("cli.md", commands=commands),
        "config.md": _renewed("config.md", keys=keys, variables=variables),
        "profiles.md": _renewed(
            "profiles.md", profiles=_table(tuple(profiles[0]), [one.values() for one in profiles])
        ),
        "portability.md": _renewed("portability.md", backends=_portability()),
        "slurm.md": _renewed("slurm.md", reasons=_reasons()),
        "run.schema.json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }


_CHECKS = (
    "conformance",
    "across the border",
    "vendor's software",
    "rehearsed site",
    "vendor's client",
    "bit order",
)


def _portability() -> str:
    """Return for each backend of ours the test modules that check it, by what they check."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]
    backends = set(points["orchestrator.backends"])
    sites = {name: place.split(".")[1] for name, place in points["hpcqc.rehearsals"].items()}
    found: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for path in sorted((_ROOT / "tests").rglob("test_*.py")):
        for backend, check in _checks(path, backends, sites):
            found[backend, check].add(path)
    rows = [
        (
            f"`{backend}`",
            *(_links(found[backend, check]) for check in _CHECKS),
            "none yet",
        )
        for backend in sorted(backends)
    ]
    return _table(("backend", *_CHECKS, "real machine"), rows)


def _links(paths: Iterable[Path]) -> str:
    listed = (path.relative_to(_ROOT) for path in sorted(paths))
    return ", ".join(f"[{path.stem.removeprefix('test_')}](../../{path})" for path in listed) or "–"


def _checks(path: Path, backends: set[str], sites: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield which backends a test module checks, and how."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    texts = {text for text in map(_text, nodes) if text is not None}
    named = {sites[text] for text in texts & set(sites)}
    called = {name for node in nodes if isinstance(node, ast.Call) for name in _names(node.func)}
    if "rehearsed" in called:
        yield from ((backend, "rehearsed site") for backend in named)
    if "judge" in called:
        yield from ((backend, "vendor's client") for backend in named)
    used = _made(nodes, backends)
    across = {"BackendConformance": False}  # by suite, where it runs its backend
    for node in nodes:
        bases = [base for one in getattr(node, "bases", ()) for base in _names(one)]
        if isinstance(node, ast.ClassDef) and any(base in across for base in bases):
            own, inherited = _is_across(node), any(across.get(base, False) for base in bases)
            across[node.name] = inherited if own is None else own
            check = "across the border" if across[node.name] else "conformance"
            yield from ((backend, check) for backend in used)
    if path.parent.name == "vendors" and "rehearsed" not in called:
        yield from ((backend, "vendor's software") for backend in used)
    tests = (node.name for node in nodes if isinstance(node, ast.FunctionDef))
    if any(name.startswith("test_") and "bit" in name and "order" in name for name in tests):
        yield from ((backend, "bit order") for backend in used)


def _is_across(suite: ast.ClassDef) -> bool | None:
    """Whether a suite runs its backend in an environment; None if it does not say."""
    for node in ast.walk(suite):
        if isinstance(node, ast.AnnAssign) and "environment" in _names(node.target):
            return not _is_none(node.value)
    keywords = (node for node in ast.walk(suite) if isinstance(node, ast.keyword))
    passed = [node.value for node in keywords if node.arg == "environment"]
    return any(not _is_none(value) for value in passed) if passed else None


def _is_none(node: ast.AST | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value is None)


def _made(nodes: Iterable[ast.AST], backends: set[str]) -> set[str]:
    """Return the backends whose factory a module imports, or that it creates by their name."""
    made = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("backends."):
            names = {alias.name for alias in node.names}
            if names & {"create", "Factory"}:
                made.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Call) and set(_names(node.func)) & {"create", "describe"}:
            made |= {text for text in map(_text, node.args[:1]) if text is not None}
    return made & backends


def _names(node: ast.AST) -> list[str]:
    """Return the last name of an expression such as ``registry.create``."""
    name = getattr(node, "id", getattr(node, "attr", None))
    return [] if name is None else [name]


def _text(node: ast.AST) -> str | None:
    value = getattr(node, "value", None) if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str) else None


def _reasons() -> str:
    return _table(
        ("reason", "means", "passes"),
        [
            (f"`{name}`", one.text.replace("|", "\\|"), "yes" if one.can_resolve else "no")
            for name, one in sorted(REASONS.items())
        ],
    )


def _renewed(page: str, **parts: str) -> str:
    """Return a page with its generated parts replaced."""
    text = (_FOLDER / page).read_text(encoding="utf-8")
    for name, part in parts.items():
        begin = f"<!-- {name}: made by docs/reference/generate.py; do not edit -->\n"
        head, _, rest = text.partition(begin)
        _, end, tail = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"{page}: expected a part that begins with {begin!r}")
        text = f"{head}{begin}{part}{end}{tail}"
    return text


def _table(columns: tuple[str, ...], rows: Iterable[Iterable[str]]) -> str:
    head, *body = (f"| {' | '.join(row)} |\n" for row in (columns, *rows))
    return "".join((head, "|" + "---|" * len(columns) + "\n", *body))


def _leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if not children:
        yield path, command
    for name, child in (children or {}).items():
        yield from _leaves(child, f"{path} {name}")


def _command(path: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    names = [p.metavar or p.name.upper() for p in arguments]
    rows = [(f"`{name}`", p.help or "") for name, p in zip(names, arguments, strict=True)]
    rows += [(_option_name(p), _option_text(p)) for p in options]
    usage = " ".join((path, *names, "[OPTIONS]"))
    return f"## {path}\n\n{command.help}\n\n    {usage}\n\n" + (
        _table(("", ""), rows) if rows else ""
    )


def _option_name(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    return names if option.is_flag else f"{names} `{option.metavar}`"


def _option_text(option: Any) -> str:
    text = option.help or ""
    default = option.default
    shown = isinstance(default, int) and not isinstance(default, bool)
    return f"{text} Default: {default}." if shown else text


def _record_schema() -> dict[str, Any]:
    """Return the schema of run records; descriptions are the docstrings below the fields.

    Pydantic could read them at each import, for a tenth of the time of a short command.
    """
    texts = {
        (made.name, field.target.id): inspect.cleandoc(text)
        for module in (outcome, schema)
        for made in ast.parse(inspect.getsource(module)).body
        if isinstance(made, ast.ClassDef)
        for field, below in itertools.pairwise(made.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(text := getattr(below.value, "value", None), str)
    }
    document = schema.RunRecord.model_json_schema(mode="serialization")
    models = {part.__name__: part for part in _subclasses(outcome.RecordPart)}
    for name, part in ("RunRecord", document), *document["$defs"].items():
        for made in reversed(models[name].__mro__) if name in models else ():
            for field, entry in part["properties"].items():
                if (made.__name__, field) in texts:
                    entry["description"] = texts[made.__name__, field]
                    part["properties"][field] = dict(sorted(entry.items()))
    return document


def _subclasses(of: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for one in of.__subclasses__():
        yield one
        yield from _subclasses(one)


def _section(title: str, model: type[BaseModel]) -> str:
    properties = model.model_json_schema()["properties"]
    rows = []
    for name, field in model.model_fields.items():
        kind = _kind(properties[name])
        default = "required" if field.is_required() else _default(field.default)
        if kind == "text" and isinstance(field.default, int):  # a size, kept as bytes
            default = _default((field.examples or [""])[0].strip("'"))
        rows.append((f"`{name}`", kind, default, field.description or ""))
    return f"## `{title}`\n\n" + _table(("key", "type", "default", "means"), rows)


def _kind(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return "text"
    options = [schema, *schema.get("anyOf", ())]
    names = ["object" if "$ref" in one else one.get("type", "null") for one in options]
    return next(_KINDS[name] for name in names if name != "null")


def _default(value: Any) -> str:
    if isinstance(value, str) and value:
        return f'`"{value}"`'
    return f"`{value:g}`" if isinstance(value, float) else ""


def _profile(profile: Profile) -> dict[str, str]:
    seconds = profile.timing.duration_s(
        circuits=1, shots=200, num_qubits=min(profile.num_qubits, 5)
    )
    usable = profile.num_qubits - len(profile.unusable_qubits)
    wrong = (profile.readout.zero_as_one + profile.readout.one_as_zero) / 2
    errors = (f"{gate.name} {100 * gate.error:.3g} %" for gate in profile.gates if gate.error)
    coupling = "all to all" if profile.coupling is None else f"{len(profile.coupling)} pairs"
    return {
        "profile": f"`{profile.name}`",
        "qubits": f"{usable} of {profile.num_qubits}" if profile.unusable_qubits else str(usable),
        "coupling": coupling if profile.resonator is None else "star through a resonator",
        "native gates": ", ".join(gate.name for gate in profile.gates),
        "errors": ", ".join(errors),
        "readout error": f"{100 * wrong:.3g} %",
        "site transpiles": "yes" if profile.site_transpiles else "no",
        "shots per task": _limit(profile.max_shots),
        "circuits per task": _limit(profile.max_circuits),
        "tasks at once": _limit(profile.max_concurrent_tasks),
        "200 shots take": f"{seconds:.3g} s",
        "metering": f"{profile.metering.kind} ({profile.metering.unit})",
    }


def _limit(value: int | None) -> str:
    return "–" if value is None else f"{value:_}".replace("_", " ")


if __name__ == "__main__":
    for name, content in pages().items():
        (_FOLDER / name).write_text(content, encoding="utf-8")
