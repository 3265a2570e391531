"""`[broker]` of a site file: the service that many flows share, and its limits."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator

from orchestrator.config.bounds import ConfigTable
from orchestrator.config.secrets import SecretRef
from orchestrator.config.values import HOST, Size
from orchestrator.names import PROJECT

__all__ = ["BrokerLimits", "BrokerSettings"]

_BROKER_URL = r"^(https?://[^/\s]+/?|unix:.+|link:.+)$"


class BrokerLimits(ConfigTable):
    """`[broker.limits]`: what users and projects may have at a service at a time."""

    open_jobs_per_user: Annotated[int, Field(ge=1)] = Field(
        default=10_000, description="jobs of one user that have not ended; a further one gets 429"
    )
    open_jobs_per_project: Annotated[int, Field(ge=1)] = Field(
        default=50_000, description="jobs of one project that have not ended"
    )
    run_budgets_per_user: Annotated[int, Field(ge=1)] = Field(
        default=2_000,
        description="how often one user may set the budget of a run within a day, since the service "
        "started; then 507",
    )
    stored_per_user: Size = Field(
        default=4 << 30,
        description="payloads that one user may submit within a day, since the service started; a "
        "further one gets 507",
        examples=["'4 GiB'"],
    )
    stored_per_project: Size = Field(
        default=16 << 30,
        description="payloads that one project may submit within a day",
        examples=["'16 GiB'"],
    )
    reserve: Size = Field(
        default=256 << 20,
        description="room that submissions leave on the disk of the ledger's file, so that jobs which "
        "run can be recorded; PostgreSQL watches its own",
        examples=["'256 MiB'"],
    )


class BrokerSettings(ConfigTable):
    """`[broker]`: the service that many flows share; without one each flow has its own."""

    url: Annotated[str, StringConstraints(pattern=_BROKER_URL)] | None = Field(
        default=None,
        description="`http://HOST:PORT` or `unix:PATH` of a running service, or `link:NAME` of a link to "
        "one; without it, a broker in the flow's own process",
        examples=["'http://localhost:8700', 'unix:/run/hpcqc/broker.sock' or 'link:hilltop'"],
    )
    token: SecretRef | None = Field(
        default=None,
        description='token of the user, as a reference: `{ env = "NAME" }` or `{ file = "PATH" }`; '
        "not needed over a Unix socket",
        examples=["{ env = 'HPCQC_BROKER_TOKEN' }"],
    )
    project: Annotated[str, StringConstraints(pattern=PROJECT)] | None = Field(
        default=None,
        description="the project that pays for the jobs; without it, the user's first one",
        examples=["'chemistry'"],
    )
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        default=0,
        description="of the jobs, from -100 to 100; policies may look at it, and a service takes more "
        "than 0 from operators alone",
    )
    share_results: list[Annotated[str, StringConstraints(pattern=PROJECT)]] = Field(
        default_factory=list,
        description="projects of the service that use each other's results again where a stage "
        "asks for that; any other project finds its own alone",
        examples=["['chemistry', 'teaching']"],
    )
    unix_groups: list[Annotated[str, StringConstraints(pattern=PROJECT)]] = Field(
        default_factory=list,
        description="Unix groups that are projects of the service: their members pay with them over "
        "a Unix socket; no other group is a project",
        examples=["['chemistry', 'teaching']"],
    )
    hosts: list[Annotated[str, StringConstraints(pattern=HOST)]] = Field(
        default_factory=list,
        description="names by which clients of the service address it, beside `localhost` and the "
        "name of its machine; requests for any other are refused",
        examples=["['broker.hilltop.example']"],
    )
    proxies: list[str] = Field(
        default_factory=list,
        description="addresses of reverse proxies before the service, which may hold as many "
        "connections as all clients together",
        examples=["['10.0.0.5']"],
    )
    limits: BrokerLimits = Field(
        default_factory=BrokerLimits,
        description="`[broker.limits]`, see below",
        examples=["{ open_jobs_per_user = 1000 }"],
    )
    ledger: str | SecretRef | None = Field(
        default=None,
        description="SQLAlchemy URL of the service's ledger, or a reference to one; "
        "SQLite in the state folder if not given",
    )

    @field_validator("proxies")
    @classmethod
    def _are_addresses(cls, value: list[str]) -> list[str]:
        for address in value:
            try:
                ip_address(address)
            except ValueError:
                raise ValueError(
                    f"proxies has {address!r}, which is not an IP address; give one such as '10.0.0.5'"
                ) from None
        return value

    @field_validator("token", mode="before")
    @classmethod
    def _is_reference(cls, value: Any) -> Any:
        if value is None or isinstance(value, SecretRef):
            return value
        raise ValueError(
            "a token is a secret; give a reference instead, "
            'such as { env = "HPCQC_BROKER_TOKEN" } or { file = "PATH" }'
        )

    @field_validator("ledger", mode="before")
    @classmethod
    def _is_url_or_reference(cls, value: Any) -> Any:
        if value is None or isinstance(value, str | SecretRef):
            return value
        raise ValueError(
            f"{value!r} is neither a SQLAlchemy URL, such as 'postgresql+psycopg://HOST/hpcqc', nor "
            "a reference to one, such as { env = 'NAME' } or { file = 'PATH' }"
        )
