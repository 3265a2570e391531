"""Molecules: read from files, written as SELFIES, scored, drawn."""

from __future__ import annotations

import csv
import functools
import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows._inputs import InputError, read_lines

__all__ = [
    "BITS",
    "Library",
    "MoleculeScore",
    "check_readable",
    "codes_of",
    "drawn",
    "library",
    "properties",
    "read",
    "read_smiles",
    "scored",
    "spelled",
]

BITS = 8
_SHIPPED = Path(__file__).with_name("moses_sample.smi.gz")
_LONGEST_SMILES = 200
_MOST_LINES = 3_000_000
_SEPARATORS = ",;\t"
_LEAST_MOLECULES = 100
_JUDGED = 40
_DRAWN_IN_A_ROW = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """Molecules to learn from. unreadable: how many others of the file were none.

    mixtures: how many were salts or mixtures, of which the largest part is learned. tokens: of SELFIES,
    what a network spells with; spellings: of each molecule, as indices into them, padded with -1
    (molecules, longest). medians: of `properties`, which make their codes.
    """

    title: str
    smiles: tuple[str, ...]
    unreadable: int
    mixtures: int
    tokens: tuple[str, ...]
    spellings: NDArray[np.int64]
    codes: NDArray[np.int64]
    medians: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoleculeScore:
    """A molecule. smiles: canonical, empty if it is none. passes: no filter's pattern is in it.

    reward: quality of a drug (QED, Bickerton et al., Nat. Chem. 4, 90 (2012)), times ease of synthesis
    (SA, Ertl and Schuffenhauer, J. Cheminf. 1, 8 (2009), from 1 to 10), halved where a filter holds.
    """

    smiles: str
    qed: float = 0.0
    sa: float = 10.0
    passes: bool = False
    properties: tuple[float, ...] = (0.0,) * BITS

    @property
    def reward(self) -> float:
        """From 0 to 1."""
        return self.qed * (10 - self.sa) / 9 * (1.0 if self.passes else 0.5)


def read_smiles(data: str | None) -> tuple[str, list[str]]:
    """Return a title and the SMILES of a file, or of the shipped sample. Raises `InputError`.

    A file has a SMILES first in each line, or is a table with a column ``SMILES`` and perhaps ``SPLIT``,
    of which "train" is taken: MOSES's layouts. Of a folder, its only file with "train" in the name.
    """
    path = _SHIPPED if data is None else Path(data).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*train*"))
        if len(found) != 1:
            raise InputError(f"{path}: {len(found)} files *train*; name the one to read")
        path = found[0]
    lines = read_lines(path)
    if len(lines) > _MOST_LINES:
        raise InputError(f"{path}: {len(lines)} lines; expected at most {_MOST_LINES}")
    title = "2000 molecules of MOSES" if data is None else path.name
    for separator in _SEPARATORS:
        header = [
            name.strip().upper() for name in next(csv.reader([lines[0].text], delimiter=separator))
        ]
        if "SMILES" in header:
            table = csv.reader((f"{line.text}\n" for line in lines[1:]), delimiter=separator)
            return title, _of_table(header, table)
    words = [line.text.split() for line in lines]
    if words[0] and "," in words[0][0]:
        raise lines[0].error(
            "a column SMILES, or a SMILES first in each line, then a space or nothing"
        )
    return title, [found[0] for found in words if found]


def _of_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the SMILES of a table's training part; an empty one for a row of another length."""
    column = header.index("SMILES")
    split = header.index("SPLIT") if "SPLIT" in header else None
    found = []
    for cells in rows:
        if cells and len(cells) != len(header):
            found.append("")
        elif cells and (split is None or cells[split].strip() == "train"):
            found.append(cells[column].strip())
    return found


def check_readable(title: str, smiles: Sequence[str]) -> None:
    """Raise `InputError` if few of the lines hold a molecule, judged by the first ones."""
    from rdkit import Chem

    first = smiles[:_JUDGED]
    with _silent():
        good = sum(Chem.MolFromSmiles(text[:_LONGEST_SMILES]) is not None for text in first)
    if len(smiles) < _LEAST_MOLECULES or good < len(first) / 2:
        raise InputError(
            f"{title}: {len(smiles)} lines, of the first {len(first)} {good} hold a molecule; expected "
            f"at least {_LEAST_MOLECULES} molecules as SMILES, one first in each line"
        )


def read(smiles: str) -> tuple[str, list[str], tuple[float, ...]] | None:
    """Return canonical SMILES, SELFIES and properties of a molecule, None if it is none.

    Of a salt or a mixture, its largest part: a network would learn counter-ions as parts of drugs.
    """
    import selfies
    from rdkit import Chem

    with _silent():
        molecule = Chem.MolFromSmiles(smiles) if 0 < len(smiles) <= _LONGEST_SMILES else None
    if molecule is None or not molecule.GetNumAtoms():
        return None
    if "." in smiles:
        parts = Chem.GetMolFrags(molecule, asMols=True)
        molecule = max(parts, key=lambda part: part.GetNumHeavyAtoms())
    canonical = Chem.MolToSmiles(molecule)
    try:
        spelling = list(selfies.split_selfies(selfies.encoder(canonical)))
    except selfies.EncoderError:
        return None
    return canonical, spelling, properties(molecule)


def library(title: str, smiles: Sequence[str], most: int, seed: int) -> Library:
    """Return molecules that were drawn from those given, as a network learns them."""
    order = np.random.default_rng(seed).permutation(len(smiles))
    chosen: dict[str, list[str]] = {}
    told, unreadable, mixtures = [], 0, 0
    for index in order:
        if len(chosen) == most:
            break
        found = read(smiles[index])
        if found is None:
            unreadable += 1
        elif found[0] not in chosen:
            chosen[found[0]] = found[1]
            told.append(found[2])
            mixtures += "." in smiles[index]
    if len(chosen) < _LEAST_MOLECULES:
        raise InputError(
            f"{title}: {len(chosen)} different molecules, and {unreadable} lines that hold none; "
            f"expected at least {_LEAST_MOLECULES}"
        )
    tokens = tuple(sorted({token for spelling in chosen.values() for token in spelling}))
    index_of = {token: index for index, token in enumerate(tokens)}
    spellings = np.full((len(chosen), max(map(len, chosen.values()))), -1)
    for row, spelling in zip(spellings, chosen.values(), strict=True):
        row[: len(spelling)] = [index_of[token] for token in spelling]
    medians = np.median(np.array(told), axis=0)
    return Library(
        title=title,
        smiles=tuple(chosen),
        unreadable=unreadable,
        mixtures=mixtures,
        tokens=tokens,
        spellings=spellings,
        codes=codes_of(told, medians),
        medians=medians,
    )


def codes_of(told: Sequence[Sequence[float]], medians: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each molecule which of its properties are above the median: (molecules, 8) bits."""
    found: NDArray[np.int64] = (np.asarray(told).reshape(-1, BITS) > medians).astype(np.int64)
    return found


def spelled(tokens: Sequence[str], spelling: Sequence[int]) -> str:
    """Return the SMILES of a spelling; empty for one that means nothing."""
    import selfies

    text = "".join(tokens[index] for index in spelling if index >= 0)
    return str(selfies.decoder(text)) if text else ""


def properties(molecule: Any) -> tuple[float, ...]:
    """Return eight properties of a molecule of RDKit's: see `flows.molecules`."""
    from rdkit.Chem import rdMolDescriptors

    return (
        float(rdMolDescriptors.CalcExactMolWt(molecule)),
        float(rdMolDescriptors.CalcCrippenDescriptors(molecule)[0]),
        float(rdMolDescriptors.CalcTPSA(molecule)),
        float(rdMolDescriptors.CalcNumHBA(molecule)),
        float(rdMolDescriptors.CalcNumHBD(molecule)),
        float(rdMolDescriptors.CalcNumRotatableBonds(molecule)),
        float(rdMolDescriptors.CalcNumAromaticRings(molecule)),
        float(rdMolDescriptors.CalcFractionCSP3(molecule)),
    )


def scored(smiles: str) -> MoleculeScore:
    """Score a molecule; one that RDKit cannot read has an empty SMILES and no reward."""
    from rdkit import Chem
    from rdkit.Chem import QED

    quality: Any = QED.qed
    with _silent():
        molecule = Chem.MolFromSmiles(smiles) if smiles else None
    if molecule is None or not molecule.GetNumAtoms():
        return MoleculeScore(smiles="")
    return MoleculeScore(
        smiles=Chem.MolToSmiles(molecule),
        qed=float(quality(molecule)),
        sa=float(_synthesis().calculateScore(molecule)),
        passes=not _filters().HasMatch(molecule),
        properties=properties(molecule),
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Keep RDKit from printing what it cannot read; the caller says it."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


@functools.cache
def _filters() -> Any:
    """Return the filters: patterns of false positives (PAINS) and of unwanted groups (Brenk)."""
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    wanted = FilterCatalogParams()
    wanted.AddCatalog(FilterCatalogParams.FilterCatalogs.PAINS)
    wanted.AddCatalog(FilterCatalogParams.FilterCatalogs.BRENK)
    return FilterCatalog(wanted)


@functools.cache
def _synthesis() -> Any:
    """Return RDKit's contributed module of the SA score, which is in no package."""
    from rdkit import RDConfig

    file = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("sascorer", file)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} is missing; expected an RDKit with its Contrib folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(scores: Sequence[MoleculeScore], legends: Sequence[str]) -> str:
    """Return a grid of structures as an SVG document."""
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    rows = -(-len(scores) // _DRAWN_IN_A_ROW)
    canvas = rdMolDraw2D.MolDraw2DSVG(_DRAWN_IN_A_ROW * 240, max(rows, 1) * 210, 240, 210)
    options: Any = canvas.drawOptions()
    options.legendFontSize = 14
    canvas.DrawMolecules([Chem.MolFromSmiles(one.smiles) for one in scores], legends=list(legends))
    canvas.FinishDrawing()
    text = str(canvas.GetDrawingText())
    return text[text.index("<svg") :]
