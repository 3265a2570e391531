"""``hpcqc qpu`` and ``hpcqc backends``: what there is to run on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.meterings import metering_to_json
from backends.site_options import SITE_OPTIONS
from orchestrator.cli.output import facts, print_json, tabulate
from orchestrator.config.loading import load_site
from orchestrator.config.secrets import resolve_secrets
from orchestrator.config.site import QpuSettings, Site
from orchestrator.provenance.markup import cell_text, duration_text
from orchestrator.provenance.record import site_document
from orchestrator.provenance.values import json_value

if TYPE_CHECKING:
    from backends.api import Target
    from backends.metering import Metering
    from backends.timing import TimingModel

__all__ = ["metering_in_words", "tell_backends", "tell_qpu", "tell_qpus", "timing_in_words"]

_MAX_PAIRS = 30


def tell_backends(*, as_json: bool) -> None:
    """Write the registered backends with the package each comes from; import none of them."""
    from backends import registry

    known = [
        {
            "name": name,
            "object": point.value,
            "package": point.dist.metadata["Name"] if point.dist else None,
            "version": point.dist.version if point.dist else None,
        }
        for name, point in registry.available().items()
    ]
    if as_json:
        print_json(known)
        return
    columns = ("name", "object", "package", "version")
    tabulate(columns, [[entry[column] for column in columns] for entry in known])


def tell_qpus(site_file: Path | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Write the site's QPUs as configured; open none of them."""
    site = load_site(site_file, overrides)
    shown = site_document(site)["qpu"]
    if as_json:
        print_json(
            [
                {"name": name, "default": name == site.default_qpu, **settings}
                for name, settings in shown.items()
            ]
        )
        return
    rows = []
    for name, settings in shown.items():
        options = dict(settings["options"])
        stated = [options.pop(option.name, None) for option in SITE_OPTIONS]
        default = "yes" if name == site.default_qpu else ""
        rows.append([name, settings["backend"], *stated, options or None, default])
    keys = [option.name for option in SITE_OPTIONS]
    columns = ("QPU", "backend", *keys, "options", "default")
    tabulate(columns, rows, title=f"{site.name} ({site.source})")


def tell_qpu(name: str, site_file: Path | None, overrides: Sequence[str], *, as_json: bool) -> None:
    """Write everything a QPU publishes. Raises what its backend raises for its options."""
    site = load_site(site_file, overrides)
    settings = site.qpu(name)
    target = _target(settings)
    if as_json:
        print_json(_target_document(site, settings, target))
        return
    facts(_target_facts(settings, target), title=f"QPU {name}")
    if target.sources:
        rows = list(target.sources.items())
        tabulate(("value", "source"), rows, title="Where the values come from")


def metering_in_words(metering: Metering) -> str:
    """Return a metering formula as a sentence."""
    return f"{metering.formula.in_words()}; in {metering.unit}"


def timing_in_words(timing: TimingModel | None) -> str | None:
    """Return a timing model as its formula with numbers, terms of zero left out; None for none."""
    if timing is None:
        return None
    per_shot = [
        f"{value * 1e6:.4g} µs{times}"
        for value, times in (
            (timing.shot_s, ""),
            (timing.qubit_shot_s, " × qubits"),
            (timing.layer_shot_s, " × qubits × depth"),
        )
        if value
    ]
    damping = (
        f" × {timing.decay:g}^min(circuits, {timing.decay_cap:g})" if timing.decay != 1 else ""
    )
    terms = [
        f"{timing.init_s:.4g} s" if timing.init_s else "",
        f"{timing.qubit_init_s:.4g} s × qubits" if timing.qubit_init_s else "",
        f"shots × ({' + '.join(per_shot)}){damping}" if per_shot else "",
    ]
    return " + ".join(term for term in terms if term) or "no time"


def _target(settings: QpuSettings) -> Target:
    from backends import registry

    return registry.describe(settings.backend, resolve_secrets(settings.options))


def _target_document(site: Site, settings: QpuSettings, target: Target) -> dict[str, Any]:
    fields = [n for n in target.__dataclass_fields__ if n not in ("native", "sources")]
    return {
        "name": settings.name,
        **site_document(site)["qpu"][settings.name],
        "target": {name: json_value(getattr(target, name)) for name in fields}
        | {"metering": metering_to_json(target.metering)},
        "metering_in_words": metering_in_words(target.metering),
        "sources": dict(target.sources),
    }


def _target_facts(settings: QpuSettings, target: Target) -> dict[str, Any]:
    calibration, windows = target.calibration, target.quality_windows
    unlimited = "no limit"
    credentials = target.credential_lifetime_s
    return {
        "backend": settings.backend,
        **{option.name: settings.options.get(option.name) for option in SITE_OPTIONS},
        "device": target.name if target.name != settings.name else None,
        "qubits": "as many as memory holds" if target.num_qubits is None else target.num_qubits,
        "unusable qubits": target.unusable_qubits or None,
        "coupling": _coupling(target),
        "native gates": ", ".join(target.native_gates) if target.native_gates else "any",
        "transpiled by": "the site" if target.site_transpiles else "hpcqc, against this target",
        "mid-circuit measurement": "yes" if target.mid_circuit_measurement else "no",
        "primitives": ", ".join(sorted(target.payload_kinds)),
        "shots per task": target.max_shots or unlimited,
        "circuits per task": target.max_circuits or unlimited,
        "tasks at once": target.max_concurrent_tasks or unlimited,
        "packs PUBs together": "yes" if target.coalesces else "no",
        "finds tasks by tag": "yes" if target.can_find else "no",
        "survives a restart": "yes" if target.durable else "no",
        "metering": metering_in_words(target.metering),
        "duration of a task": timing_in_words(target.timing),
        "calibration": f"{calibration.id}, taken {calibration.taken_at:%Y-%m-%d %H:%M} UTC",
        "valid until": f"{calibration.valid_until:%Y-%m-%d %H:%M} UTC"
        if calibration.valid_until
        else None,
        "quality windows": ", ".join(f"{w.start} to {w.end} UTC" for w in windows) or None,
        "credentials last": duration_text(credentials) if credentials else None,
    }


def _coupling(target: Target) -> str:
    if target.coupling is None:
        if target.resonator is not None:
            return f"a star: every two-qubit gate is between a qubit and q{target.resonator}"
        return "all to all"
    shown = " ".join(f"{a}-{b}" for a, b in target.coupling[:_MAX_PAIRS])
    left = len(target.coupling) - _MAX_PAIRS
    return f"{shown} … and {cell_text(left)} more pairs" if left > 0 else shown
