"""QRMI's resources of the type ``pasqal-cloud``."""

from __future__ import annotations

from backends.qrmi_types import QrmiType

__all__ = ["QRMI_CLOUD"]

QRMI_CLOUD = QrmiType(
    backend="pasqal-cloud",
    options={"QRMI_PASQAL_CLOUD_PROJECT_ID": "project"},
    secrets={"QRMI_PASQAL_CLOUD_AUTH_TOKEN": "token"},
    resource="device_type",
)
