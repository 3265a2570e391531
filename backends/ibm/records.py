"""What is kept of each job of IBM's service: its id, and how its result is put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backends.ibm.pubs import PubForm

__all__ = ["SentJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SentJob:
    """A start. job: None until its answer came.

    sent_at_s: in seconds since the epoch. num_qubits: of its widest circuit, for its charge.
    """

    sent_at_s: float
    num_qubits: int
    forms: tuple[PubForm, ...]
    job: str | None = None

    def accepted(self, job: str) -> SentJob:
        """Return the record of a start whose job is known."""
        return replace(self, job=job)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SentJob:
        """Undo `to_json`."""
        return cls(**{**data, "forms": tuple(map(PubForm.from_json, data["forms"]))})

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {
            "sent_at_s": self.sent_at_s,
            "num_qubits": self.num_qubits,
            "forms": [form.to_json() for form in self.forms],
            "job": self.job,
        }
