"""QRMI's resources of the type ``pasqal-local``."""

from __future__ import annotations

from backends.qrmi_types import QrmiType

__all__ = ["QRMI_LOCAL"]

QRMI_LOCAL = QrmiType(
    backend="warden",
    options={"QRMI_WARDEN_URL": "url"},
    secrets={"QRMI_JOB_ACQUISITION_TOKEN": "session"},
)
