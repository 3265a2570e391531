"""Plays one page: its files are written, its Python and its commands run, in order.

Run as ``python play.py PAGE [--slow]`` in an empty folder. Python blocks share one namespace and
keep the page's line numbers, so a traceback points into the page.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pages import Block, blocks

RUNNABLE = ("hpcqc", "python", "python3", "cat")
COMMAND_LIMIT_S = 500


def main() -> int:
    """Play the page; return 1 at the first thing that goes wrong."""
    page, with_slow = Path(sys.argv[1]), "--slow" in sys.argv[2:]
    known = blocks(page.read_text(encoding="utf-8"))
    script = Path(f"{page.stem.replace('-', '_')}_page.py").absolute()
    script.write_text(_python_with_page_lines(known), encoding="utf-8")
    sys.path.insert(0, str(script.parent))  # as for a reader who starts Python in this folder
    namespace = {"__name__": "__main__", "__file__": str(script)}
    for block in known:
        if block.is_skipped or (block.is_slow and not with_slow):
            continue
        name = block.option("file")
        if name is not None:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(script), "exec"), namespace)
        elif not _play_commands(block, page):
            return 1
    return 0


def _play_commands(block: Block, page: Path) -> bool:
    for command in block.commands():
        words = shlex.split(command, comments=True)
        if not words or words[0] not in RUNNABLE:
            continue
        expected = int(block.option("exit") or 0)
        print(f"$ {command}", flush=True)
        environment = os.environ | {"PATH": f"{_scripts()}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["/bin/sh", "-c", command], timeout=COMMAND_LIMIT_S, check=False, env=environment
        )
        if done.returncode != expected:
            where = f"{page.name}:{block.line}"
            print(f"{where}: {command!r} ended with {done.returncode}, not {expected}")
            return False
    return True


def _python_with_page_lines(known: list[Block]) -> str:
    """Return the page's Python, other lines empty: what inspect and tracebacks read."""
    lines: list[str] = []
    for block in known:
        if block.language == "python" and block.option("file") is None:
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    return "\n".join(lines) + "\n"


def _scripts() -> str:
    return sysconfig.get_path("scripts")


if __name__ == "__main__":
    sys.exit(main())
