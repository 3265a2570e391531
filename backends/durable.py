"""Files that are on disk when a call returns, replaced as a whole."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

__all__ = ["replace_durably"]


def replace_durably(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, in a folder that is made if need be."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
