"""What a QPU is to hpcqc, and the backends it ships."""

from backends.permanent_thread import guard_import

__all__: list[str] = []

guard_import()
