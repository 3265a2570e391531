"""The command line, called as the installed command calls it, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator.cli import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on stdout; fails if there is anything besides it."""
        return json.loads(self.out)

    @property
    def paragraph(self) -> str:
        """The error on stderr as one line; fails if it is more than one, or a traceback."""
        assert "Traceback" not in self.out + self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("Error: ")
        return lines[0]


@pytest.fixture
def hpcqc(capsys, tmp_path, monkeypatch) -> Callable[..., Said]:
    """Call a command in an empty working folder, with stdout and stderr caught."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        seen = capsys.readouterr()
        return Said(code=int(end.value.code or 0), out=seen.out, err=seen.err)

    return call
