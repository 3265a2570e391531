"""Errors as the API tells them: problem documents (RFC 9457) that clients turn back into errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from backends.api import BackendError, PayloadRejected, QpuUnavailable, TaskCancelled
from orchestrator.broker.api.tokens import TokenError
from orchestrator.broker.client.status import JobUnknown, NotUncertain
from orchestrator.broker.core.access import Forbidden
from orchestrator.broker.core.budgets import BudgetExhausted
from orchestrator.broker.ledger import LedgerError, LedgerUnwritable
from orchestrator.broker.runtime.billing import UnitUnknown
from orchestrator.broker.runtime.quotas import StorageFull, TooManyJobs
from orchestrator.names import EXPECTED

__all__ = [
    "DECLARED",
    "PROBLEM",
    "ApiError",
    "ProblemDetails",
    "declared",
    "install_problems",
    "problem_response",
]

PROBLEM = "application/problem+json"
_RETRY_S = "1"
_NAMED = ("lease", "project", "qpu", "stage")
_SHOWN = 80


class ProblemDetails(BaseModel):
    """What went wrong. error_type: the class a client raises, one of `backends.api` or ours."""

    type: str = Field(default="about:blank", description="always about:blank")
    title: str = Field(description="the kind of problem, the same for every case of it")
    status: int = Field(description="the HTTP status once more")
    detail: str = Field(description="what was given, what was expected, what to do")
    error_type: str = Field(description="class of the error a client is to raise")


class ApiError(Exception):
    """A refusal with its HTTP status."""

    def __init__(
        self, status: int, detail: str, *, kind: str = "ApiError", headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.kind, self.headers = status, detail, kind, dict(headers)


_TITLES = {
    400: "Bad request",
    401: "Not authenticated",
    402: "Budget exhausted",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "Too slow",
    409: "Not in this state",
    411: "Length missing",
    413: "Too large",
    414: "Path too long",
    415: "Unsupported media type",
    421: "Not this broker",
    422: "Cannot be accepted",
    429: "Too many requests",
    431: "Head too large",
    500: "Fault of the broker",
    503: "Not available now",
    507: "No room",
}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of problem answers."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": _TITLES[status], "content": {PROBLEM: {"schema": schema}}}
        for status in statuses
    }


# What any endpoint may answer that asks who calls.
DECLARED = declared(400, 401, 403, 404, 422, 429, 503)


def install_problems(app: FastAPI) -> None:
    """Let every error leave the application as a problem document."""

    async def told(_request: Request, error: Exception) -> JSONResponse:
        return problem_response(error)

    async def hidden(_request: Request, _error: Exception) -> JSONResponse:
        return _response(500, "the broker failed on this request; its log says why", kind="Fault")

    for kind in (
        ApiError,
        BackendError,
        Forbidden,
        HTTPException,
        JobUnknown,
        LedgerError,
        NotUncertain,
        RequestValidationError,
        StorageFull,
        TokenError,
        TooManyJobs,
        UnitUnknown,
    ):
        app.add_exception_handler(kind, told)
    # Starlette raises it again for the server's log once the answer is sent.
    app.add_exception_handler(Exception, hidden)


def problem_response(error: Exception) -> JSONResponse:
    """Return the answer to an error that the API knows."""
    return _response(*_read(error), kind=_kind(error), headers=_headers(error))


_STATUS: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
    (BudgetExhausted, 402),
    (TooManyJobs, 429),
    (StorageFull, 507),
    ((PayloadRejected, UnitUnknown), 422),
    ((QpuUnavailable, LedgerUnwritable, TaskCancelled, TokenError), 503),
    (Forbidden, 403),
    (JobUnknown, 404),
)


def _read(error: Exception) -> tuple[int, str]:
    match error:
        case ApiError():
            return error.status, error.detail
        case HTTPException():
            return error.status_code, str(error.detail)
        case RequestValidationError():
            return 422, "; ".join(_fault(fault) for fault in error.errors())
        case LedgerError() if not isinstance(error, LedgerUnwritable):
            # The ledger's own words name its place, and are in the log.
            return 503, "the broker's ledger failed; an operator sees why in its log"
    found = (status for kinds, status in _STATUS if isinstance(error, kinds))
    return next(found, 409), str(error)


def _fault(fault: Mapping[str, Any]) -> str:
    expected = EXPECTED.get(fault.get("ctx", {}).get("pattern", ""))
    if expected is not None:
        place = [str(part) for part in fault["loc"][1:] if part != "Job-Request"]
        what, given = " ".join(place), repr(fault["input"])
        noun = "run id" if what == "run" else f"{what} name" if what in _NAMED else what
        shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
        return f"invalid {noun} {shown}: {expected}"
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}"


def _kind(error: Exception) -> str:
    return error.kind if isinstance(error, ApiError) else type(error).__name__


def _headers(error: Exception) -> dict[str, str]:
    match error:
        case ApiError():
            return error.headers
        case HTTPException():
            return dict(error.headers or {})
        case QpuUnavailable(retry_after_s=float(seconds)):
            return {"Retry-After": str(max(1, round(seconds)))}
        case QpuUnavailable() | TooManyJobs():
            return {"Retry-After": _RETRY_S}
        case _:
            return {}


def _response(
    status: int, detail: str, *, kind: str, headers: Mapping[str, str] = {}
) -> JSONResponse:
    title = _TITLES.get(status, "Error")
    problem = ProblemDetails(title=title, status=status, detail=detail, error_type=kind)
    return JSONResponse(
        problem.model_dump(), status_code=status, headers=dict(headers), media_type=PROBLEM
    )
