"""Device profiles: real QPUs as data, for a simulator to wear."""

from backends.profiles.files import ProfileError, load_profile, profile_text
from backends.profiles.profile import NativeGate, PrecisionRule, Profile, Readout
from backends.simulator import shipped_profiles as shipped

__all__ = [
    "NativeGate",
    "PrecisionRule",
    "Profile",
    "ProfileError",
    "Readout",
    "load_profile",
    "profile_text",
    "shipped",
]
