"""QRMI's resources at IBM's service."""

from __future__ import annotations

from backends.qrmi_types import QrmiType

__all__ = ["QRMI_SERVICE", "QRMI_SERVICE_BEFORE"]


def _at_the_service(variables: str) -> QrmiType:
    # What the plugin acquired is a session of IBM's.
    return QrmiType(
        backend="ibm",
        options={
            f"{variables}_ENDPOINT": "url",
            f"{variables}_IAM_ENDPOINT": "iam_url",
            f"{variables}_SERVICE_CRN": "instance",
            "QRMI_JOB_ACQUISITION_TOKEN": "session",
        },
        secrets={f"{variables}_IAM_APIKEY": "token"},
        resource="device",
    )


QRMI_SERVICE = _at_the_service("QRMI_IBM_QCS")
# As QRMI called it before it was renamed.
QRMI_SERVICE_BEFORE = _at_the_service("QRMI_IBM_QRS")
