"""The table of what the flows compare: made from records of runs, which this script takes up.

``python docs/reference/table_of_uses.py FOLDER NAME`` keeps what the table needs of the run in FOLDER as
``docs/reference/uses/NAME.json``, for ``generate.py``. What no record has, such as the published
figure, is in ``uses/texts.toml``.
"""

from __future__ import annotations

import json
import math
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.provenance.schema import read_record

__all__ = ["entry", "table"]

_FOLDER = Path(__file__).parent
_ENTRIES = _FOLDER / "uses"
_COLUMNS = (
    "flow",
    "data",
    "quantum part",
    "baseline",
    "published",
    "ours",
    "who won",
)
_PACKAGES = (
    *("hpcqc", "qiskit", "qiskit-aer", "numpy", "scikit-learn", "jax"),
    *("stim", "pymatching", "rdkit", "selfies", "pyulog"),
)
_NEEDED = ("data", "measure", "higher_is_better", "won", "ways")


def entry(folder: Path) -> dict[str, Any]:
    """Return what the table needs of a run: no host, no path of the machine.

    Raises:
        ValueError: The folder has no completed run of a flow that compares.
    """
    record = read_record(folder)
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no result ({error}); expected a completed run") from error
    compared = result.get("comparisons") if isinstance(result, dict) else None
    if not compared or any(key not in one for one in compared for key in _NEEDED):
        raise ValueError(
            f"{folder}: a result without complete 'comparisons'; expected a flow that compares ways, "
            "whose result has what the text of the package `flows` says"
        )
    options = record.site.qpu[record.qpu].options if record.qpu in record.site.qpu else {}
    return {
        "flow": f"flows.{record.flow.replace('-', '_')}",
        "parameters": {name: _without_folder(value) for name, value in record.parameters.items()},
        "qpu": record.qpu,
        "profile": options.get("profile"),
        "started_at": record.started_at.date().isoformat(),
        "shots": record.usage.total.shots,
        "circuits": record.usage.total.circuits,
        "versions": {k: v for k, v in record.versions.items() if k in _PACKAGES},
        "comparisons": [
            {key: one[key] for key in (*_NEEDED, "bound") if key in one} for one in compared
        ],
    }


def table() -> str:
    """Return the table, a row for each comparison of each run taken up, in Markdown."""
    texts = tomllib.loads((_ENTRIES / "texts.toml").read_text(encoding="utf-8"))
    runs = {path.name: json.loads(path.read_text("utf-8")) for path in _ENTRIES.glob("*.json")}
    order = sorted(runs, key=lambda name: (runs[name]["flow"], name))
    rows = [
        row for name in order for row in _rows(name, runs[name], _told_apart(name, runs), texts)
    ]
    head, *body = (f"| {' | '.join(row)} |\n" for row in (_COLUMNS, *rows))
    return "".join((head, "|" + "---|" * len(_COLUMNS) + "\n", *body))


def _rows(
    name: str, run: Mapping[str, Any], apart: str, texts: Mapping[str, Any]
) -> Iterator[tuple[str, ...]]:
    try:
        text = texts[run["flow"]]
    except KeyError:
        raise ValueError(
            f"{name}: no text of {run['flow']!r}; give it one in uses/texts.toml"
        ) from None
    for one in run["comparisons"]:
        best = _best_of_each_side(one)
        ours = "quantum" if "quantum" in best else next(iter(best))
        others = {side: way for side, way in best.items() if side != ours}
        shown = [f"{way['name']} {_figure(way)}" for way in (best[ours], *others.values())]
        if one.get("bound"):
            shown.append(f"bound: {one['bound']['name']} {_figure(one['bound'])}")
        yield (
            f"[`{run['flow']}`]({text['section']}), {_qpu(run)}{apart}",
            one["data"],
            _of(text["quantum"], one["data"]),
            _best(one, others.values())["name"] if others else "–",
            _of(text["published"], one["data"]),
            f"{one['measure']}: {'; '.join(shown)}",
            {"neither": "nobody"}.get(one["won"], one["won"]),
        )


def _qpu(run: Mapping[str, Any]) -> str:
    return "ideal" if run["profile"] is None else f"with the noise of {run['profile']}"


def _told_apart(name: str, runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the parameters in which a run differs from those that would have the same row."""
    run = runs[name]

    def key(one: Mapping[str, Any]) -> tuple[Any, ...]:
        return one["flow"], one["profile"], tuple(c["data"] for c in one["comparisons"])

    alike = [
        one["parameters"] for other, one in runs.items() if other != name and key(one) == key(run)
    ]
    if run["parameters"] in alike:
        raise ValueError(f"{name}: another file has the same run; expected one of them")
    return "".join(
        f", {parameter} = {value}"
        for parameter, value in run["parameters"].items()
        if value is not None and any(other.get(parameter) != value for other in alike)
    )


def _of(text: str | Mapping[str, str], data: str) -> str:
    """Return the text for a data set, which is that of the first key that its name begins with."""
    if isinstance(text, str):
        return text
    return next((found for key, found in text.items() if data.startswith(key)), "–")


def _best_of_each_side(one: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the best way of each side, in the order in which sides come first."""
    sides: dict[str, list[Mapping[str, Any]]] = {}
    for way in one["ways"]:
        sides.setdefault(way["side"], []).append(way)
    return {side: _best(one, ways) for side, ways in sides.items()}


def _best(one: Mapping[str, Any], ways: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    sign = 1 if one["higher_is_better"] else -1
    return max(ways, key=lambda way: sign * way["value"])


def _figure(way: Mapping[str, Any]) -> str:
    value, error = way["value"], way["error"]
    if not error:
        return f"{value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def _without_folder(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and "/" in value else value


def main(arguments: list[str]) -> None:
    """Take up a run."""
    if len(arguments) != 2:
        sys.exit("expected the folder of a run, and a name for what is kept of it")
    folder, name = arguments
    try:
        made = entry(Path(folder))
    except ValueError as error:
        sys.exit(str(error))
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    (_ENTRIES / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
