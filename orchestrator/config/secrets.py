"""References to secrets: read late, shown never."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from backends.secret_text import SecretText
from orchestrator.config.environment import process_environment
from orchestrator.config.errors import ConfigError
from orchestrator.config.qrmi_file import qrmi_variable

__all__ = ["SecretRef", "credentials_used", "reference_or_value", "resolve_secrets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretRef:
    """Where a secret is kept: an environment variable, a file, or QRMI's variables. Holds no value.

    >>> SecretRef(source="env", where="VLQ_TOKEN")
    SecretRef(source='env', where='VLQ_TOKEN')
    """

    source: Literal["env", "file", "qrmi"]
    where: str

    def resolve(self, environ: Mapping[str, str] | None = None) -> str:
        """Read the secret without a final newline; `ConfigError` names its place, not its value."""
        if self.source == "env":
            value = process_environment(environ).get(self.where)
            if not value:
                raise ConfigError(
                    f"environment variable {self.where} is not set; the site's configuration "
                    "takes a secret from it, so export it before the run"
                )
            return value
        if self.source == "qrmi":
            value = qrmi_variable(self.where, environ)
            if not value:
                raise ConfigError(
                    f"{self.where} is neither in the environment nor in QRMI's file; export it "
                    "before the job is submitted, or ask the operator to add it to the file"
                )
            return value
        try:
            text = Path(self.where).read_text(encoding="utf-8-sig").rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise ConfigError(
                f"cannot read the secret file {self.where}: {reason}; create it, "
                "readable by you alone, or change the reference in the site's configuration"
            ) from error
        return SecretText.read_from(self.where, text)


def reference_or_value(value: Any, folder: Path) -> Any:
    """Replace each ``{ env = "NAME" }`` and ``{ file = "PATH" }`` by a `SecretRef`."""
    if isinstance(value, Mapping):
        if len(value) == 1:
            ((key, where),) = value.items()
            if key == "env" and isinstance(where, str):
                return SecretRef(source="env", where=where)
            if key == "file" and isinstance(where, str):
                return SecretRef(source="file", where=str(folder / Path(where).expanduser()))
        return {key: reference_or_value(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [reference_or_value(item, folder) for item in value]
    return value


def resolve_secrets(options: Any, environ: Mapping[str, str] | None = None) -> Any:
    """Return options with their secrets, never to be logged. Raises `ConfigError`."""
    if isinstance(options, SecretRef):
        return options.resolve(environ)
    if isinstance(options, Mapping):
        return {key: resolve_secrets(item, environ) for key, item in options.items()}
    if isinstance(options, (list, tuple)):
        return [resolve_secrets(item, environ) for item in options]
    return options


def credentials_used(options: Any, user: str) -> str:
    """Return with whose credentials a QPU with these options is asked; places, never values.

    >>> credentials_used({"token": SecretRef(source="env", where="VLQ_TOKEN")}, "hpcqc")
    'user hpcqc, env VLQ_TOKEN'
    """
    return ", ".join(dict.fromkeys([f"user {user}", *_places(options)]))


def _places(options: Any) -> Iterator[str]:
    if isinstance(options, SecretRef):
        yield f"{options.source} {options.where}"
    elif isinstance(options, Mapping):
        for item in options.values():
            yield from _places(item)
    elif isinstance(options, (list, tuple)):
        for item in options:
            yield from _places(item)
