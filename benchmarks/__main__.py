"""Runs the benchmarks and writes RESULTS.md: ``python -m benchmarks [NAME …]``."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.rows import Row

NAMES = ("bell", "loop", "stages", "widths", "startup", "service", "agent", "ledger")
RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("hpcqc", "prefect", "qiskit", "qiskit-aer", "dask", "distributed", "numpy")


def main(names: list[str]) -> None:
    """Measure what was named, or everything; write the table only for everything."""
    unknown = sorted(set(names) - set(NAMES))
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    rows: list[Row] = []
    for name in names or NAMES:
        print(f"measuring {name} …", file=sys.stderr)
        found = importlib.import_module(f"benchmarks.{name}").measure()
        for row in found:
            print(_line(row))
        rows += found
    if not names:
        RESULTS.write_text(_document(rows))
        print(f"wrote {RESULTS}")


def _line(row: Row) -> str:
    met = {True: "yes", False: "no", None: "–"}[row.met]
    ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
    return (
        f"| {row.name} | {row.ours} | {row.against} | {row.what} | {ratio} | {row.goal} | {met} |"
    )


def _document(rows: list[Row]) -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} (not installed)")
    head = [
        "# Benchmark results",
        "",
        "Written by `make bench`. Medians; the ratio is ours over theirs, or theirs over ours",
        "where more is better for us, as the goal says. All in one run on one machine, each",
        "comparison taken in turn.",
        "",
        (
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
            f"{platform.system()}, Python {platform.python_version()}; {', '.join(versions)}."
        ),
        "",
        "| what | hpcqc | other | other is | ratio | goal | met |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(head + [_line(row) for row in rows]) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
