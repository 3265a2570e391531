"""What the stages of `flows.molecules` hand to workers, which need not load the flow for it."""

from __future__ import annotations

from dataclasses import dataclass

from flows._drug_like.chemistry import Library, MoleculeScore
from flows._drug_like.network import Speller

__all__ = ["Made", "MakingSettings", "Schooled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MakingSettings:
    """How molecules are made; see the module's text."""

    molecules: int
    epochs: int
    rounds: int
    samples: int
    generations: int
    shots: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a network made from codes of one prior. speller: after it was trained further, or not."""

    scores: tuple[MoleculeScore, ...]
    speller: Speller


@dataclass(frozen=True, slots=True, kw_only=True)
class Schooled:
    """Molecules, and a network that learned from them."""

    known: Library
    speller: Speller
