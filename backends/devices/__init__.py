"""Devices: backends by flat circuits and counts, for SDKs without Qiskit or with another one."""

__all__: list[str] = []
