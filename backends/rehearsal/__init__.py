"""Sites rehearsed: servers that speak a vendor's protocol over a simulated device."""

from backends.rehearsal.device import RehearsedDevice, RehearsedJob, Simulator
from backends.rehearsal.dialect import Dialect, rehearsal_names, rehearsed_site
from backends.rehearsal.faults import FaultError, SiteFault, parse_fault

__all__ = [
    "Dialect",
    "FaultError",
    "RehearsedDevice",
    "RehearsedJob",
    "Simulator",
    "SiteFault",
    "parse_fault",
    "rehearsal_names",
    "rehearsed_site",
]
