"""Backends in a process of their own, for SDKs that cannot be imported beside hpcqc."""

__all__: list[str] = []
