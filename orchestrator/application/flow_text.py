"""What a flow says of itself, read from its source: nothing of it is imported or executed."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.application.target import FlowTarget, TargetError, decorated_flows

__all__ = ["FlowParameter", "FlowText", "UnreadableFlow", "flow_text"]


class UnreadableFlow(ValueError):
    """The source of the flow cannot be found or does not define it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowParameter:
    """A parameter as the source has it. default: None if a value must be given."""

    name: str
    type: str
    default: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowText:
    """What a flow computes, empty if it does not say so, and what it takes."""

    text: str
    parameters: tuple[FlowParameter, ...]


def flow_text(target: FlowTarget) -> FlowText:
    """Read what a flow says of itself.

    A ready flow is described by its module; one in a user's file by itself, else by the file.

    Raises:
        TargetError: The file holds no flow, or several and none is chosen.
        UnreadableFlow: Its source cannot be found or read, or only imports the flow.
    """
    file = _source(target)
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise UnreadableFlow(f"{file} cannot be read: {error}") from error
    name = target.entry_point.attr if target.entry_point is not None else target.attribute
    function = _function(tree, file, name or _only_flow(tree, file))
    texts = [ast.get_docstring(function), ast.get_docstring(tree)]
    if target.entry_point is not None:
        texts.reverse()
    return FlowText(
        text=next((text for text in texts if text), ""),
        parameters=tuple(_parameters(function, tree)),
    )


def _source(target: FlowTarget) -> Path:
    if target.entry_point is None:
        return target.path or Path(target.text)
    module = target.entry_point.module
    found = _module_file(module)
    if found is None:
        raise UnreadableFlow(f"the source of module {module} is not found")
    return found


def _module_file(module: str) -> Path | None:
    """Return a module's source; find_spec of importlib.util would import the packages above it."""
    places, found = None, None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        specs = (finder.find_spec(name, places) for finder in sys.meta_path)
        found = next((spec for spec in specs if spec is not None), None)
        places = None if found is None else found.submodule_search_locations
        if places is None and depth < len(parts):
            return None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return None
    return Path(found.origin)


def _only_flow(tree: ast.Module, file: Path) -> str:
    names = decorated_flows(tree)
    if len(names) > 1:
        raise TargetError(
            f"{file.name} holds several flows: {', '.join(names)}; give {file.name}:NAME"
        )
    if not names:
        raise UnreadableFlow(f"no function of {file} is decorated with @flow")
    return names[0]


def _function(tree: ast.Module, file: Path, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return node
    raise UnreadableFlow(f"{file} has no function {name} at its top level")


def _parameters(
    function: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.Module
) -> Iterator[FlowParameter]:
    takes = function.args
    placed = [*takes.posonlyargs, *takes.args]
    defaults: list[ast.expr | None] = [None] * (len(placed) - len(takes.defaults))
    defaults += [*takes.defaults, *takes.kw_defaults]
    for one, default in zip([*placed, *takes.kwonlyargs], defaults, strict=True):
        yield FlowParameter(
            name=one.arg,
            type="any" if one.annotation is None else _type(one.annotation, tree),
            default=None if default is None else _unquoted(default),
        )
    if takes.kwarg is not None:
        yield FlowParameter(name=f"**{takes.kwarg.arg}", type="any other names", default="none")


def _type(annotation: ast.expr, tree: ast.Module) -> str:
    """Return an annotation with the words that a named ``Literal`` allows in place of its name."""
    for node in ast.walk(annotation):
        allowed = _literal(node.id, tree) if isinstance(node, ast.Name) else None
        if allowed is not None and isinstance(node, ast.Name):
            node.id = allowed
    return _unquoted(annotation)


def _literal(name: str, tree: ast.Module, *, follow: bool = True) -> str | None:
    """Return the ``Literal`` that a name stands for here, or in the module it is imported from."""
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id=found)], value=ast.Subscript(value=ast.Name(id="Literal"))
            ) if found == name:
                return ast.unparse(node.value)
            case ast.ImportFrom(module=str(module), level=0, names=names) if follow:
                original = next((n.name for n in names if name in (n.asname, n.name)), None)
                file = _module_file(module) if original is not None else None
                if original is not None and file is not None:
                    source = ast.parse(file.read_bytes())
                    return _literal(original, source, follow=False)
    return None


def _unquoted(node: ast.expr) -> str:
    """Return source as a user would write it after ``-p name=``: text without quotes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value or "''"
    return inspect.cleandoc(ast.unparse(node))
