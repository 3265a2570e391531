"""Runs the benchmarks and writes RESULTS.md, whole or in part: ``python -m benchmarks [NAME …]``."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.rows import Row
from orchestrator.config.proxies import bypass_for_loopback

NAMES = (
    "bell",
    "loop",
    "stages",
    "encryption",
    "widths",
    "noisy",
    "startup",
    "service",
    "agent",
    "ledger",
    "sharing",
    "prediction",
    "scheduling",
    "reading",
    "border",
    "realtime",
    "vendors",
    "transpiling",
    "slurm_queue",
    "slurm_stages",
    "flows.anomalies",
    "flows.decoder",
    "flows.decoder_workers",
    "flows.entanglement",
    "flows.federated",
    "flows.generative",
    "flows.household",
    "flows.molecules",
    "flows.realtime",
    "flows.sensing",
)
# Measured only if named: each takes half an hour and more.
LONG = ("couplings",)
RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("hpcqc", "prefect", "qiskit", "qiskit-aer", "dask", "distributed", "numpy")


def main(names: list[str]) -> None:
    """Measure what was named, or everything; each benchmark's part of the table is written anew."""
    unknown = sorted(set(names) - {*NAMES, *LONG})
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are: {', '.join((*NAMES, *LONG))}")
    bypass_for_loopback()
    parts = _parts()
    for name in names or NAMES:
        print(f"measuring {name} …", file=sys.stderr)
        rows: list[Row] = importlib.import_module(f"benchmarks.{name}").measure()
        for row in rows:
            print(_line(row))
        if rows:  # none without what the benchmark needs, such as a Slurm
            parts[name] = _part(rows)
        RESULTS.write_text(_document(parts))
    print(f"wrote {RESULTS}")


def _parts() -> dict[str, str]:
    """Return what was measured before, by benchmark."""
    if not RESULTS.exists():
        return {}
    found = (part.split("\n", 1) for part in RESULTS.read_text().split("\n## ")[1:])
    return {name.strip(): text.strip() for name, text in found}


def _line(row: Row) -> str:
    met = {True: "yes", False: "no", None: "–"}[row.met]
    ratio = "–" if row.ratio is None else f"{row.ratio:.2f}"
    return (
        f"| {row.name} | {row.ours} | {row.against} | {row.what} | {ratio} | {row.goal} | {met} |"
    )


def _part(rows: list[Row]) -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{package} (not installed)")
    lines = [
        (
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
            f"{platform.system()}, Python {platform.python_version()}; {', '.join(versions)}."
        ),
        "",
        "| what | hpcqc | other | other is | ratio | goal | met |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in rows])


def _document(parts: dict[str, str]) -> str:
    head = (
        "# Benchmark results\n\n"
        "Written by `make bench`, or, a part of it, by `python -m benchmarks NAME`. Medians; the ratio\n"
        "is ours over theirs, or theirs over ours where more is better for us, as the goal says. Each\n"
        "part is one run on one machine, what is compared taken in turn.\n"
    )
    known = [name for name in (*NAMES, *LONG) if name in parts]
    return head + "".join(f"\n## {name}\n\n{parts[name]}\n" for name in known)


if __name__ == "__main__":
    main(sys.argv[1:])
