"""Finding the flow that ``hpcqc run`` is told to run."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from backends.plugins import installed
from backends.suggestions import did_you_mean
from orchestrator.doctor import foreign_flow, missing_extra, shadowing

if TYPE_CHECKING:
    from prefect import Flow

    from orchestrator.stages import StageNeeds

__all__ = [
    "GROUP",
    "FlowTarget",
    "TargetError",
    "decorated_flows",
    "find_target",
    "load_flow",
    "stages_beside",
    "target_of",
]

GROUP = "hpcqc.flows"


class TargetError(ValueError):
    """The flow to run cannot be found or imported; nothing was started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTarget:
    """Where a flow is: in a file, behind an entry point, or in memory. text: as the user gave it."""

    text: str
    path: Path | None = None
    attribute: str | None = None
    entry_point: EntryPoint | None = None
    flow: Flow[..., Any] | None = None


def target_of(flow: Flow[..., Any] | str) -> FlowTarget:
    """Return where a flow is, which may be given by its text, or raise `TargetError`."""
    if isinstance(flow, str):
        return find_target(flow)
    from prefect import Flow

    if not isinstance(flow, Flow):
        raise TargetError(
            f"{flow!r} is {type(flow).__name__}, not a flow; give a function under @prefect.flow, "
            "path/to/file.py:flow, or the name of a ready flow"
        )
    text = f"{flow.fn.__module__}:{flow.fn.__qualname__}"
    code = getattr(flow.fn, "__code__", None)
    path = None if code is None else Path(code.co_filename)
    return FlowTarget(text=text, path=path if path and path.is_file() else None, flow=flow)


def find_target(text: str) -> FlowTarget:
    """Find a flow by ``FILE.py[:FLOW]`` or a ready flow's name, without importing it.

    Raises `TargetError`, also for a syntax error and for a file that does not define the flow.
    """
    path, colon, attribute = text.rpartition(":")
    if not colon or not path.endswith(".py"):
        path, attribute = text, ""
    if path.endswith(".py") or "/" in path:
        file = Path(path).expanduser().absolute()
        if not file.is_file():
            raise TargetError(f"no file {path!r}; give path/to/file.py:flow")
        shadowing(file.parent)
        _check_source(text, file, attribute)
        return FlowTarget(text=text, path=file, attribute=attribute or None)
    known = installed(GROUP)
    if text in known:
        return FlowTarget(text=text, entry_point=known[text])
    raise TargetError(
        f"no flow {text!r}; ready flows are: {', '.join(known) or 'none'}; for a flow of your own "
        f"give path/to/file.py:flow{did_you_mean(text, known)}"
    )


def load_flow(target: FlowTarget) -> Flow[..., Any]:
    """Import the flow. Raises `TargetError` saying what is missing or wrong, and where."""
    from prefect import Flow

    if target.flow is not None:
        return target.flow
    if target.entry_point is not None:
        foreign_flow(target.entry_point)
        with _explained(target):
            found = target.entry_point.load()
    else:
        module = _import_file(target, target.path or Path(target.text))
        found = _chosen(target, module)
    if not isinstance(found, Flow):
        raise TargetError(
            f"{target.text} is {type(found).__name__}, not a flow; decorate it with @prefect.flow"
        )
    return found


def stages_beside(flow: Flow[..., Any]) -> dict[str, StageNeeds]:
    """Return what the stages declare that the flow's module has, by the name that they have there."""
    if "orchestrator.stages" not in sys.modules:
        return {}
    from orchestrator.stages import stage_needs

    module = sys.modules.get(flow.fn.__module__)
    beside = flow.fn.__globals__ if module is None else vars(module)
    found = {name: stage_needs(value) for name, value in beside.items()}
    return {name: needs for name, needs in found.items() if needs is not None}


def _check_source(text: str, file: Path, attribute: str) -> None:
    """Compile a file, and look for the flow's name in it: seconds before Prefect is imported."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except SyntaxError as error:
        raise TargetError(_syntax_error(text, error)) from error
    except (OSError, ValueError) as error:
        raise TargetError(f"{text} cannot be read: {error}") from error
    if not attribute:
        return
    if attribute not in (names := _bound_names(tree)) and "*" not in names:
        raise TargetError(_no_such_flow(file.name, attribute, decorated_flows(tree)))


def decorated_flows(tree: ast.Module) -> list[str]:
    """Return the functions under ``@flow`` or ``@prefect.flow``, with arguments or without."""
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and any(re.search(r"\bflow\b", ast.unparse(mark)) for mark in node.decorator_list)
    ]


def _no_such_flow(file: str, attribute: str, flows: Sequence[str]) -> str:
    return (
        f"{file} has no {attribute!r}; its flows are: {', '.join(flows) or 'none'}"
        f"{did_you_mean(attribute, flows)}"
    )


def _bound_names(tree: ast.Module) -> set[str]:
    """Return the names a file may bind at its top level; ``*`` if they cannot all be known."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name) | ast.MatchAs(name=str(name)):
                names.add(name)
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                names.add(name)
            case ast.alias():
                names.add(node.asname or node.name.split(".")[0])
            case ast.Name(id="globals" | "exec" | "vars" | "setattr"):
                names.add("*")
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
    return names


def _syntax_error(text: str, error: SyntaxError) -> str:
    return f"{text}: {error.msg} ({error.filename}, line {error.lineno})"


def _import_file(target: FlowTarget, path: Path) -> ModuleType:
    """Import a file the way ``python file.py`` finds its neighbours: their folder comes first."""
    name = re.sub(r"\W", "_", path.stem)
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"{name}_flow"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _explained(target):
        spec.loader.exec_module(module)
    return module


def _chosen(target: FlowTarget, module: ModuleType) -> Any:
    from prefect import Flow

    here = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, Flow) and value.fn.__module__ == module.__name__
    }
    file = target.path.name if target.path else target.text
    if target.attribute is not None:
        found = getattr(module, target.attribute, None)
        if found is None:
            raise TargetError(_no_such_flow(file, target.attribute, list(here)))
        return found
    if len(here) == 1:
        return next(iter(here.values()))
    if not here:
        raise TargetError(f"{file} holds no flow; decorate a function with @prefect.flow")
    raise TargetError(f"{file} holds several flows: {', '.join(here)}; give {file}:NAME")


@contextmanager
def _explained(target: FlowTarget) -> Iterator[None]:
    """Turn what an import raises into a `TargetError` that names file, line and remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        raise TargetError(f"{target.text} needs {missing!r}: {missing_extra(missing)}") from error
    except SyntaxError as error:
        raise TargetError(_syntax_error(target.text, error)) from error
    except Exception as error:
        where = _last_line(error, target.path)
        raise TargetError(
            f"{target.text} cannot be imported{where}: {type(error).__name__}: {error}"
        ) from error


def _last_line(error: BaseException, path: Path | None) -> str:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if path is not None and trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" (line {line})" if line else ""
