"""Device profiles: real QPUs as data, for a simulator to wear."""

from backends.profiles.files import ProfileError, load_profile, shipped
from backends.profiles.profile import NativeGate, PrecisionRule, Profile, Readout

__all__ = [
    "NativeGate",
    "PrecisionRule",
    "Profile",
    "ProfileError",
    "Readout",
    "load_profile",
    "shipped",
]
