"""The help of a command that takes a flow: after a flow's name, what that flow computes and takes."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from orchestrator.application.flow_text import FlowParameter

__all__ = ["TargetCommand"]

_KEY = "hpcqc.target"


class TargetCommand(TyperCommand):
    """A command whose argument ``target`` is a flow, described where ``--help`` follows it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the target: ``--help`` is answered before arguments have their values."""
        given = self.make_parser(ctx).parse_args(args=list(args))[0].get("target")
        if isinstance(given, str):
            ctx.meta[_KEY] = given
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the flow's text and parameters before the command's options."""
        if _KEY not in ctx.meta:
            super().format_help(ctx, formatter)
            return
        from orchestrator.application.flow_text import UnreadableFlow, flow_text
        from orchestrator.application.target import find_target
        from orchestrator.wording import visible

        target = ctx.meta[_KEY]
        try:
            found = flow_text(find_target(target))
        except UnreadableFlow as error:
            formatter.write(visible(f"What {target} computes cannot be told: {error}.") + "\n\n")
            super().format_help(ctx, formatter)
            return
        self.format_usage(ctx, formatter)
        formatter.write_paragraph()
        for line in _wrapped(visible(found.text or f"{target} has no text."), formatter.width):
            formatter.write(f"{line}\n")
        with formatter.section("Parameters (-p NAME=VALUE)"):
            rows = [(visible(one.name), visible(_taken(one))) for one in found.parameters]
            formatter.write_dl(rows or [("none", "")])
        self.format_options(ctx, formatter)


def _taken(parameter: FlowParameter) -> str:
    if parameter.default is None:
        return f"{parameter.type}, needed"
    if parameter.default == "None":
        return f"{parameter.type.removesuffix(' | None')}, optional"
    return f"{parameter.type}, by default {parameter.default}"


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Fold paragraphs and items of a list to a width; leave indented blocks as they are."""
    for block in re.split(r"\n(?=- |\n)", text.replace("``", "`")):
        lines = block.lstrip("\n")
        if block.startswith("\n"):
            yield ""
        if lines.startswith((" ", ">>>")):
            yield from lines.splitlines()
        elif lines:
            indent = "  " if lines.startswith("- ") else ""
            words = " ".join(lines.split())
            yield from textwrap.wrap(words, width, subsequent_indent=indent, break_on_hyphens=False)
