"""The generated parts of the reference: commands, keys, profiles, uses, Slurm's reasons, schema.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

from backends.profiles import Profile, load_profile, shipped
from docs.reference.table_of_uses import table
from orchestrator.cli.app import app
from orchestrator.config.bounds import ChoiceWeights, LeaseBounds, Rate
from orchestrator.config.broker_tables import BrokerLimits, BrokerSettings
from orchestrator.config.compute_tables import BatchTable, ComputeTable
from orchestrator.config.environment import VARIABLES
from orchestrator.config.link_tables import LinkTable
from orchestrator.config.qpu_tables import QpuTable, ScheduleSettings, WindowSettings
from orchestrator.config.site import ProjectTable, SiteTable
from orchestrator.config.slurm_access import QfwBounds, SlurmAccess
from orchestrator.provenance import outcome, schema
from orchestrator.slurm.explain import REASONS

__all__ = ["CheckedBackends", "pages"]

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
        "uses.md": _renewed("uses.md", uses=table()),
        "run.schema.json": json.dumps(record, indent=2, ensure_ascii=False) + "\n",
    }


_CHECKS = (
    "conformance",
    "random circuits",
    "bit order",
    "conformance across the border",
    "random circuits across the border",
    "vendor's software",
    "rehearsed site",
    "vendor's client",
)
_OF_CIRCUITS = frozenset({"random circuits", "bit order", "random circuits across the border"})
_COMPARISONS = {"counts_follow_probabilities", "values_are_exact"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Suite:
    """What a class that runs the conformance suite says of itself, or inherits.

    across: runs its backend in an environment. takes: payload kinds. exact: random circuits are
    compared; a device whose noise nobody knows leaves them out. backends: which it makes.
    """

    across: bool = False
    takes: frozenset[str] = frozenset()
    noisy: bool = False
    profile: bool = False
    backends: frozenset[str] = frozenset()

    def checks(self) -> Iterator[str]:
        """Yield what the suite checks of its backends."""
        border = " across the border" if self.across else ""
        yield f"conformance{border}"
        if "sampler" in self.takes:
            yield "bit order"
            if self.profile or not self.noisy:
                yield f"random circuits{border}"


def _portability() -> str:
    """Return for each backend of ours the test modules that check it, by what they check."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]
    backends = {_module(place): name for name, place in points["orchestrator.backends"].items()}
    sites = {name: backends[_module(place)] for name, place in points["hpcqc.rehearsals"].items()}
    found: dict[tuple[str, str], set[Path]] = defaultdict(set)
    takes: dict[str, set[str]] = defaultdict(set)
    for path in sorted((_ROOT / "tests").rglob("test_*.py")):
        module = CheckedBackends(path, backends, sites)
        for backend, check in module.checks():
            found[backend, check].add(path)
        for suite in module.suites.values():
            for backend in suite.backends:
                takes[backend] |= suite.takes
    rows = []
    for backend in sorted(backends.values()):
        other = takes[backend] and "sampler" not in takes[backend]
        cells = (
            "takes no circuits"
            if other and check in _OF_CIRCUITS
            else _links(found[backend, check])
            for check in _CHECKS
        )
        rows.append((f"`{backend}`", *cells, "none yet"))
    return _table(("backend", *_CHECKS, "real machine"), rows)


def _module(place: str) -> str:
    """Return the package of ``backends`` in which an entry point is."""
    return place.partition(":")[0].split(".")[1]


def _links(paths: Iterable[Path]) -> str:
    listed = (path.relative_to(_ROOT) for path in sorted(paths))
    return ", ".join(f"[{path.stem.removeprefix('test_')}](../../{path})" for path in listed) or "–"


class CheckedBackends:
    """A module of tests, read for which backends it checks and how.

    backends: names by their package. sites: of which backend each rehearsed site is.
    """

    def __init__(self, path: Path, backends: Mapping[str, str], sites: Mapping[str, str]) -> None:
        self._path, self._backends = path, backends
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._nodes = list(ast.walk(self._tree))
        texts = {text for text in map(_text, self._nodes) if text is not None}
        self._named = {sites[text] for text in texts & set(sites)}
        calls = (node for node in self._nodes if isinstance(node, ast.Call))
        self._called = {name for call in calls for name in _names(call.func)}
        self._used = self._made()
        self.suites: dict[str, _Suite] = {"BackendConformance": _Suite()}
        for node in self._nodes:
            bases = [base for one in getattr(node, "bases", ()) for base in _names(one)]
            above = [self.suites[base] for base in bases if base in self.suites]
            if isinstance(node, ast.ClassDef) and above:
                self.suites[node.name] = self._suite(node, above[0])
        del self.suites["BackendConformance"]

    def checks(self) -> Iterator[tuple[str, str]]:
        """Yield which backends the module checks, and how."""
        for suite in self.suites.values():
            yield from itertools.product(suite.backends, suite.checks())
        if self._called & _COMPARISONS:
            across = " across the border" if _is_across(self._tree) else ""
            yield from ((backend, f"random circuits{across}") for backend in self._used)
        if "rehearsed" in self._called:
            yield from ((backend, "rehearsed site") for backend in self._named)
        elif self._path.parent.name == "vendors":
            yield from ((backend, "vendor's software") for backend in self._used)
        if "judge" in self._called:
            yield from ((backend, "vendor's client") for backend in self._named)
        if any(_is_of_bit_order(node) for node in self._nodes):
            yield from ((backend, "bit order") for backend in self._used)

    def _suite(self, node: ast.ClassDef, above: _Suite) -> _Suite:
        stated = dict(_assignments(node.body))
        across = _is_across(node)
        name = _text(stated.get("name"))
        takes = {text for text in map(_text, ast.walk(stated.get("takes", node))) if text}
        noise = stated.get("noise")
        return _Suite(
            across=above.across if across is None else across,
            takes=frozenset(takes) if "takes" in stated else above.takes,
            noisy=above.noisy if noise is None else getattr(noise, "value", 1.0) != 0.0,
            profile=not _is_none(stated["profile"]) if "profile" in stated else above.profile,
            backends=(
                frozenset({name} & set(self._backends.values()))
                if name is not None
                else above.backends or frozenset(self._used)
            ),
        )

    def _made(self) -> set[str]:
        """Return the backends whose factory the module imports, or that it creates by their name."""
        made = set()
        for node in self._nodes:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("backends."):
                if {alias.name for alias in node.names} & {"create", "Factory"}:
                    made.add(self._backends.get((node.module or "").split(".")[1]))
            elif isinstance(node, ast.Call) and set(_names(node.func)) & {"create", "describe"}:
                made |= {_text(argument) for argument in node.args[:1]}
        return {name for name in self._backends.values() if name in made}


def _assignments(body: Iterable[ast.stmt]) -> Iterator[tuple[str, ast.AST]]:
    """Yield the attributes that a class sets, and to what."""
    for node in body:
        if isinstance(node, ast.Assign):
            yield from ((name, node.value) for target in node.targets for name in _names(target))
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield from ((name, node.value) for name in _names(node.target))


def _is_of_bit_order(node: ast.AST) -> bool:
    name = node.name if isinstance(node, ast.FunctionDef) else ""
    return name.startswith("test_") and (
        ("bit" in name and "order" in name) or "flipped_qubit_0_of_three" in name
    )


def _is_across(tree: ast.AST) -> bool | None:
    """Whether a suite or module runs its backend in an environment; None if it does not say."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and "environment" in _names(node.target):
            return node.value is None or not _is_none(node.value)
    keywords = (node for node in ast.walk(tree) if isinstance(node, ast.keyword))
    passed = [node.value for node in keywords if node.arg == "environment"]
    return any(not _is_none(value) for value in passed) if passed else None


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _names(node: ast.AST) -> list[str]:
    """Return the last name of an expression such as ``registry.create``."""
    name = getattr(node, "id", getattr(node, "attr", None))
    return [] if name is None else [name]


def _text(node: ast.AST | None) -> str | None:
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
