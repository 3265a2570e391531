"""Who may see and do what at a broker that serves many users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Forbidden", "Identity", "Role"]

Role = Literal["user", "operator"]


class Forbidden(ValueError):
    """The caller is known, and may not do this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A caller whose token, or whose end of a Unix socket, is known."""

    user: str
    role: Role
    # Whose jobs a user sees, touches and pays with, by default the first; operators see all.
    # Empty for a Unix user in no group that is a project.
    projects: tuple[str, ...]

    @property
    def is_operator(self) -> bool:
        """Whether every project and every QPU is theirs to handle."""
        return self.role == "operator"

    def may_see(self, project: str) -> bool:
        """Whether the jobs of a project are visible to the caller."""
        return self.is_operator or project in self.projects

    def paying(self, project: str | None) -> str:
        """Return the project that pays. Raises `Forbidden` for one that is not the caller's."""
        if project is None:
            if not self.projects:
                raise Forbidden(
                    f"user {self.user!r} has no project here; an operator adds one of the user's "
                    "Unix groups to [broker] unix_groups in the site file, or makes a token"
                )
            return self.projects[0]
        if self.may_see(project):
            return project
        listed = ", ".join(self.projects) or "none"
        raise Forbidden(f"user {self.user!r} has no part in project {project!r}; theirs: {listed}")
