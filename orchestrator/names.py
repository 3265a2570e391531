"""Names: of our packages, and what names may be that people choose and others read."""

from __future__ import annotations

import re

__all__ = [
    "ANY",
    "EXPECTED",
    "EXTENSION_GROUPS",
    "LABEL",
    "LINE",
    "OUR_PACKAGES",
    "PROJECT",
    "RUN",
    "is_name",
]

# What stands in the place of a QPU's name where the broker is to choose one.
ANY = "any"
OUR_PACKAGES = ("backends", "flows", "hpcqc", "orchestrator")
# By entry point group, what a package registers there.
EXTENSION_GROUPS = {
    "orchestrator.backends": "backend",
    "hpcqc.payloads": "payload kind",
    "hpcqc.meterings": "metering formula",
    "hpcqc.policies": "policy",
    "hpcqc.computes": "compute kind",
}

PROJECT = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
RUN = r"^[A-Za-z0-9][A-Za-z0-9._@:-]{0,199}$"
LABEL = r"^[A-Za-z0-9][A-Za-z0-9._@:-]{0,99}$"
# Any text of one line without control characters, or those that change the direction of writing or
# have no width. What else a terminal could take for an order is escaped where it is printed.
LINE = r"^[^\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]*$"

# By pattern, how an error message goes on.
EXPECTED = {
    PROJECT: "use 1-64 ASCII letters, digits or . _ @ -, and begin with a letter or digit",
    RUN: "use 1-200 ASCII letters, digits or . _ @ : -, and begin with a letter or digit",
    LABEL: "use 1-100 ASCII letters, digits or . _ @ : -, and begin with a letter or digit",
    LINE: "use one line of text without control or invisible characters",
}


def is_name(text: str, pattern: str) -> bool:
    """Whether a text is a name of this kind, one of the patterns here."""
    return re.fullmatch(pattern.removesuffix("$"), text) is not None
