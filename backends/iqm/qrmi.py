"""QRMI's resources of the type ``iqm-server``."""

from __future__ import annotations

from backends.qrmi_types import QrmiType

__all__ = ["QRMI_SERVER", "alias_of"]


def alias_of(name: str) -> str:
    """Return a quantum computer's alias, of which QRMI writes the last ``:`` as ``_``.

    >>> alias_of("sirius_mock"), alias_of("garnet")
    ('sirius:mock', 'garnet')
    """
    head, underscore, tail = name.rpartition("_")
    return f"{head}:{tail}" if underscore else name


QRMI_SERVER = QrmiType(
    backend="iqm",
    options={"QRMI_IQM_ISA_ENDPOINT": "url"},
    secrets={"QRMI_IQM_ISA_TOKEN": "token"},
    resource="quantum_computer",
    resource_name=alias_of,
)
