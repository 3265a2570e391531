"""HEAppE's protocol for jobs that are created, given files, and then submitted."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from backends.connection import Answer, SiteConnection
from backends.errors import PayloadRejected, QpuBusy, QpuUnavailable, UnknownTask

__all__ = ["Heappe", "HeappeJob", "JobStage", "Template"]

_JOBS, _FILES = "/heappe/JobManagement", "/heappe/FileTransfer"
_TASK = "quantum_task"
_LOG = "quantum_task_progress.log"


class JobStage(IntEnum):
    """Where a job is, with HEAppE's numbers."""

    CONFIGURING = 1
    SUBMITTED = 2
    QUEUED = 4
    RUNNING = 8
    FINISHED = 16
    FAILED = 32
    CANCELED = 64
    WAITING_FOR_ACCOUNT = 128
    DELETED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class HeappeJob:
    """A job of one task, by HEAppE's ids."""

    id: int
    task: int
    stage: JobStage

    def path(self, file: str) -> str:
        """Return where the job has a file."""
        return f"/{self.id}/{self.task}/{file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A command that a project may run on a queue of a cluster, by HEAppE's ids."""

    cluster: int
    node_type: int
    project: int
    command: int
    transfer: int


class Heappe:
    """What is asked of a server; raises errors of the backend tree."""

    def __init__(self, connection: SiteConnection) -> None:
        self._connection = connection

    def template(self, cluster: str, account: str, command: str, queue: str) -> Template:
        """Look up a command on a queue. Raises `QpuUnavailable` if the account has none such."""
        path = "/heappe/ClusterInformation/ListAvailableClusters"
        params = {"ClusterName": cluster, "CommandTemplateName": command}
        answer = self._connection.read("GET", path, params=params)
        try:
            found = _only(answer.json() if answer.is_success else (), "Name", cluster)
            node_type = _only(found["NodeTypes"], "Name", queue)
            project = _only(node_type["Projects"], "AccountingString", account)
            template = _only(project["CommandTemplates"], "Name", command)
            return Template(
                cluster=int(found["Id"]),
                node_type=int(node_type["Id"]),
                project=int(project["Id"]),
                command=int(template["Id"]),
                transfer=int(node_type["FileTransferMethodId"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise QpuUnavailable(
                f"{self._connection.url} offers no command {command!r} on queue {queue!r} of cluster "
                f"{cluster!r} to resource {account!r}: it lacks {error} ({answer.reason})"
            ) from error

    def create(
        self, template: Template, name: str, *, walltime_s: int, variables: Mapping[str, str]
    ) -> HeappeJob:
        """Create a job, which does nothing before it is submitted. Raises `QpuBusy` for no answer."""
        task = {
            "Name": _TASK,
            "MinCores": 1,
            "MaxCores": 1,
            "WalltimeLimit": walltime_s,
            "ProgressFile": _LOG,
            "LogFile": _LOG,
            "ClusterNodeTypeId": template.node_type,
            "CommandTemplateId": template.command,
            "TemplateParameterValues": [],
        }
        specification = {
            "Name": name,
            "ProjectId": template.project,
            "ClusterId": template.cluster,
            "FileTransferMethodId": template.transfer,
            "EnvironmentVariables": [
                {"Name": key, "Value": value} for key, value in variables.items()
            ],
            "Tasks": [task],
        }
        try:
            answer = self._connection.submit(
                f"{_JOBS}/CreateJob", {"JobSpecification": specification}
            )
            return _job(_accepted(answer))
        except QpuUnavailable as error:
            raise _nothing_started(error) from error

    def stage(self, job: HeappeJob, files: Mapping[str, bytes]) -> None:
        """Put files into the folder of a created job. Raises `QpuBusy` for no answer."""
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode()
            + content
            + b"\r\n"
            for name, content in files.items()
        ]
        try:
            answer = self._connection.submit(
                f"{_FILES}/UploadFilesToJobExecutionDir",
                b"".join((*parts, f"--{boundary}--\r\n".encode())),
                params={"JobId": job.id, "TaskId": job.task},
                headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
            )
            listed = _accepted(answer).json()
        except QpuUnavailable as error:
            raise _nothing_started(error) from error
        stored = {
            one.get("FileName")
            for one in (listed if isinstance(listed, list) else [])
            if isinstance(one, dict) and one.get("Succeeded") is True
        }
        missing = sorted(files.keys() - stored)
        if missing:
            raise QpuBusy(f"the server did not store {missing[0]!r}, so nothing was started")

    def submit(self, job: HeappeJob) -> None:
        """Start a created job. Raises `QpuUnavailable` where nobody knows whether it was started."""
        answer = self._connection.submit(
            f"{_JOBS}/SubmitJob", {"CreatedJobInfoId": job.id}, method="PUT"
        )
        # A request may have arrived before, and then the job is no longer one that can be submitted.
        if not answer.is_success and self.job(job.id).stage is JobStage.CONFIGURING:
            raise PayloadRejected(f"the server refused the job: {answer.reason}")

    def job(self, job: int) -> HeappeJob:
        """Return a job as it is now. Raises `UnknownTask`."""
        answer = self._connection.read(
            "GET", f"{_JOBS}/CurrentInfoForJob", params={"SubmittedJobInfoId": job}
        )
        if answer.status == 404:
            raise UnknownTask(f"the server does not know job {job}: {answer.reason}")
        return _job(answer)

    def file(self, job: HeappeJob, name: str, *, larger_bytes: int = 0) -> bytes:
        """Return a file of a job. Raises `QpuUnavailable` if it cannot be read."""
        answer = self._connection.read(
            "POST",
            f"{_FILES}/DownloadFileFromCluster",
            body={"SubmittedJobInfoId": job.id, "RelativeFilePath": job.path(name)},
            larger_bytes=larger_bytes,
        )
        try:
            if answer.is_success:
                return base64.b64decode(answer.json(), validate=True)
        except (ValueError, TypeError, binascii.Error):
            pass
        raise QpuUnavailable(f"file {name!r} of job {job.id} cannot be read: {answer.reason}")

    def cancel(self, job: HeappeJob) -> None:
        """Ask for a job's end; one that has ended stays as it is."""
        answer = self._connection.read(
            "PUT", f"{_JOBS}/CancelJob", body={"SubmittedJobInfoId": job.id}
        )
        if not answer.is_success and self.job(job.id).stage < JobStage.FINISHED:
            raise QpuUnavailable(f"job {job.id} cannot be cancelled: {answer.reason}")


def _nothing_started(error: QpuUnavailable) -> QpuBusy:
    return QpuBusy(f"nothing was started: {error}", retry_after_s=error.retry_after_s)


def _only(listed: Any, key: str, value: str) -> Mapping[str, Any]:
    for one in listed:
        if isinstance(one, dict) and one.get(key) == value:
            return one
    raise KeyError(value)


def _accepted(answer: Answer) -> Answer:
    if answer.is_success:
        return answer
    raise PayloadRejected(f"the server refused the job: {answer.reason}")


def _job(answer: Answer) -> HeappeJob:
    stated = answer.error if answer.is_success else {}
    try:
        (task,) = stated["Tasks"]
        return HeappeJob(
            id=int(stated["Id"]), task=int(task["Id"]), stage=JobStage(stated["State"])
        )
    except (KeyError, TypeError, ValueError) as error:
        raise QpuUnavailable(f"a job cannot be read: {answer.reason}, it lacks {error}") from error
