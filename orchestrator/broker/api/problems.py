"""Errors of the API as problem documents (RFC 9457), which clients turn back into errors."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from backends.api import BackendError, PayloadRejected, QpuUnavailable, TaskCancelled
from orchestrator.broker.api.tokens import TokenError
from orchestrator.broker.client.protocol import DataRefused
from orchestrator.broker.client.status import JobUnknown, NotUncertain
from orchestrator.broker.core.access import Forbidden
from orchestrator.broker.core.budgets import BudgetExhausted
from orchestrator.broker.core.metered import MeteredRefused
from orchestrator.broker.ledger import LedgerError, LedgerUnwritable
from orchestrator.broker.runtime.grant_watch import NotGranted
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
_NAMED = ("lease", "project", "qpu", "stage")
_SHOWN = 80


class ProblemDetails(BaseModel):
    """An error. error_type: the class that a client raises, one of `backends.api` or ours."""

    type: str = Field(default="about:blank", description="always about:blank")
    title: str = Field(description="the phrase of the HTTP status")
    status: int = Field(description="the HTTP status")
    detail: str = Field(description="what was given, what was expected, what to do")
    error_type: str = Field(description="class of the error that a client raises")


class ApiError(Exception):
    """A refusal with its HTTP status."""

    def __init__(
        self, status: int, detail: str, *, kind: str = "ApiError", headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.headers = status, kind, headers


# The status of each error; of several that match, the first.
_STATUS: Mapping[type[Exception], int] = {
    BudgetExhausted: 402,
    TooManyJobs: 429,
    StorageFull: 507,
    PayloadRejected: 422,
    RequestValidationError: 422,
    QpuUnavailable: 503,
    TaskCancelled: 503,
    LedgerError: 503,
    TokenError: 503,
    Forbidden: 403,
    NotGranted: 403,
    DataRefused: 403,
    JobUnknown: 404,
    NotUncertain: 409,
    MeteredRefused: 422,
    BackendError: 409,
}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of problem answers."""
    content = {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


# Answers of any endpoint that requires authentication.
DECLARED = declared(400, 401, 403, 404, 422, 429, 503)


def install_problems(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""

    async def known(_request: Request, error: Exception) -> JSONResponse:
        return problem_response(error)

    async def unknown(_request: Request, _error: Exception) -> JSONResponse:
        detail = "the broker failed on this request; its log says why"
        return problem_response(ApiError(500, detail, kind="Fault"))

    for kind in (ApiError, HTTPException, *_STATUS):
        app.add_exception_handler(kind, known)
    # Starlette raises it again for the server's log once the answer is sent.
    app.add_exception_handler(Exception, unknown)


def problem_response(error: Exception) -> JSONResponse:
    """Return the problem document of an error in `_STATUS`, an `ApiError` or `HTTPException`."""
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 409)
    detail, name, headers = str(error), type(error).__name__, {}
    match error:
        case ApiError():
            status, name, headers = error.status, error.kind, dict(error.headers)
        case HTTPException():
            status, detail, headers = error.status_code, error.detail, dict(error.headers or {})
        case RequestValidationError():
            detail = "; ".join(map(_validation_detail, error.errors()))
        case QpuUnavailable() | TooManyJobs():
            headers = {
                "Retry-After": str(max(1, round(getattr(error, "retry_after_s", None) or 1)))
            }
        case LedgerError() if not isinstance(error, LedgerUnwritable):
            # Its own text names the ledger's place, which is for the log alone.
            detail = "the broker's ledger failed; an operator sees why in its log"
    problem = ProblemDetails(
        title=HTTPStatus(status).phrase, status=status, detail=detail, error_type=name
    )
    return JSONResponse(
        problem.model_dump(), status_code=status, headers=headers, media_type=PROBLEM
    )


def _validation_detail(fault: Mapping[str, Any]) -> str:
    expected = EXPECTED.get(fault.get("ctx", {}).get("pattern", ""))
    if expected is None:
        where = ".".join(str(part) for part in fault["loc"])
        return f"{where}: {fault['msg']}"
    what = " ".join(str(part) for part in fault["loc"][1:] if part != "Job-Request")
    noun = "run id" if what == "run" else f"{what} name" if what in _NAMED else what
    given = repr(fault["input"])
    shown = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
    return f"invalid {noun} {shown}: {expected}"
