"""Trapped-ion QPUs of AQT: direct access and the vendor's cloud, spoken over HTTP."""

from backends.aqt.factory import AqtOptions, create

__all__ = ["AqtOptions", "create"]
