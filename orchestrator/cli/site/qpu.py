"""``hpcqc qpu``: the QPUs of a site."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli.options import Json, Settings, SiteFile
from orchestrator.cli.output import facts, print_json, tabulate
from orchestrator.provenance.markup import cell_text, duration_text

if TYPE_CHECKING:
    from backends.analog.device import RydbergChannel, RydbergDevice
    from backends.api import Target
    from backends.metering import Metering
    from backends.timing import TimingModel
    from orchestrator.config.qpu_tables import QpuSettings
    from orchestrator.config.site import Site

__all__ = ["metering_in_words", "qpu_list", "qpu_show", "timing_in_words"]

_MAX_PAIRS = 30


def qpu_list(site: SiteFile = None, setting: Settings = None, as_json: Json = False) -> None:
    """List the site's QPUs."""
    from backends.site_options import SITE_OPTIONS
    from orchestrator.application.qpus import coupling_class_of
    from orchestrator.config.loading import load_site
    from orchestrator.provenance.record import site_document

    found = load_site(site, setting or ())
    shown = site_document(found)["qpu"]
    if as_json:
        print_json(
            [
                {"name": name, "default": name == found.default_qpu, **settings}
                for name, settings in shown.items()
            ]
        )
        return
    rows = []
    for name, settings in shown.items():
        options = dict(settings["options"])
        stated = [options.pop(option.name, None) for option in SITE_OPTIONS]
        default = "yes" if name == found.default_qpu else ""
        kept = coupling_class_of(found.qpus[name])
        rows.append([name, settings["backend"], kept, *stated, options or None, default])
    keys = [option.name for option in SITE_OPTIONS]
    columns = ("QPU", "backend", "class", *keys, "options", "default")
    tabulate(columns, rows, title=f"{found.name} ({found.source})")


def qpu_show(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    site: SiteFile = None,
    setting: Settings = None,
    as_json: Json = False,
) -> None:
    """Show what a QPU accepts, how it charges, where its values come from, and how it stands.

    Status, capacity and readiness come from the broker service, if the site has one; else the QPU
    itself is asked, where it is behind a wire.
    """
    from pydantic_core import to_jsonable_python

    from orchestrator.application.qpus import look_at_qpu, target_from_settings
    from orchestrator.application.service import has_service, qpu_facts
    from orchestrator.cli.broker.qpus import readiness_facts
    from orchestrator.config.loading import load_site

    found = load_site(site, setting or ())
    settings = found.qpu(name)
    look = None if has_service(found) else look_at_qpu(settings)
    target = None if look is None else look.target
    if target is None:
        target = target_from_settings(settings)
    stands = qpu_facts(found, settings.name) if look is None else look.facts
    if as_json:
        document = _target_document(found, settings, target)
        print_json(document | {"facts": to_jsonable_python(stands)})
        return
    facts(_target_facts(settings, target), title=f"QPU {name}")
    if isinstance(stands, str):
        unknown = dict.fromkeys(("status", "capacity", "readiness"), f"not known: {stands}")
        facts(unknown, title="How it stands")
    else:
        facts(readiness_facts(stands), title="How it stands")
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


def _target_document(site: Site, settings: QpuSettings, target: Target) -> dict[str, Any]:
    from backends.metering import metering_to_json
    from orchestrator.provenance.record import site_document
    from orchestrator.provenance.values import json_value

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
    from backends.site_options import SITE_OPTIONS

    calibration, windows = target.calibration, target.quality_windows
    unlimited = "no limit"
    credentials = target.credential_lifetime_s
    return {
        "backend": settings.backend,
        "environment": _environment(settings),
        **{option.name: settings.options.get(option.name) for option in SITE_OPTIONS},
        "device": target.name if target.name != settings.name else None,
        **(_gate_facts(target) if target.rydberg is None else _atom_facts(target, target.rydberg)),
        "primitives": ", ".join(sorted(target.payload_kinds)),
        "shots per task": target.max_shots or unlimited,
        "circuits per task": target.max_circuits or unlimited,
        "tasks at once": target.max_concurrent_tasks or unlimited,
        "coupling class": target.coupling_class or "not known",
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


def _gate_facts(target: Target) -> dict[str, Any]:
    return {
        "qubits": "as many as memory holds" if target.num_qubits is None else target.num_qubits,
        "unusable qubits": target.unusable_qubits or None,
        "coupling": _coupling(target),
        "native gates": ", ".join(target.native_gates) if target.native_gates else "any",
        "transpiled by": "the site" if target.site_transpiles else "hpcqc, against this target",
        "mid-circuit measurement": "yes" if target.mid_circuit_measurement else "no",
    }


def _atom_facts(target: Target, device: RydbergDevice) -> dict[str, Any]:
    radius, longest_ns = device.max_radius_um, device.max_duration_ns
    return {
        "atoms": target.num_qubits or "no limit",
        "Rydberg level": f"{device.rydberg_level}, C6/ħ = {device.c6:g} rad/µs·µm⁶",
        "least distance": f"{device.min_distance_um:g} µm",
        "field": None if radius is None else f"{radius:g} µm around its centre",
        "layout of traps": "required" if device.requires_layout else "not required",
        "longest sequence": None if longest_ns is None else f"{longest_ns} ns",
        "channels": ", ".join(map(_channel, device.channels)),
    }


def _channel(channel: RydbergChannel) -> str:
    limits = [
        f"{name} ≤ {most:.4g} rad/µs"
        for name, most in (("Ω", channel.max_amplitude), ("|δ|", channel.max_detuning))
        if most is not None
    ]
    return f"{channel.id} ({', '.join([channel.basis, *limits])})"


def _environment(settings: QpuSettings) -> str | None:
    stated = settings.environment
    return stated if stated is None or isinstance(stated, str) else " ".join(stated)


def _coupling(target: Target) -> str:
    if target.coupling is None:
        if target.resonator is not None:
            return f"a star: every two-qubit gate is between a qubit and q{target.resonator}"
        return "all to all"
    shown = " ".join(f"{a}-{b}" for a, b in target.coupling[:_MAX_PAIRS])
    left = len(target.coupling) - _MAX_PAIRS
    return f"{shown} … and {cell_text(left)} more pairs" if left > 0 else shown
