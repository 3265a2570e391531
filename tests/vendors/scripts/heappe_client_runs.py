"""Runs in an environment with py4heappe alone: creates, stages, submits and reads a job."""

import base64
import json
import sys
import time
from pathlib import Path

from py4heappe.heappe_v6.core import ApiClient, Configuration
from py4heappe.heappe_v6.core.api import ClusterInformationApi, FileTransferApi, JobManagementApi
from py4heappe.heappe_v6.core.models import (
    CreateJobByProjectModel,
    DownloadFileFromClusterModel,
    EnvironmentVariableExt,
    JobSpecificationExt,
    SubmitJobModel,
    TaskSpecificationExt,
)

url, token_file = sys.argv[1:]
token = json.loads(Path(token_file).read_text())["access_token"]
client = ApiClient(Configuration(host=url), "Authorization", f"Bearer {token}")
jobs, files = JobManagementApi(client), FileTransferApi(client)
clusters = ClusterInformationApi(client)


def template(command, queue):
    (cluster,) = clusters.heappe_cluster_information_list_available_clusters_get(
        cluster_name="VLQ", command_template_name=command
    )
    (node_type,) = [one for one in cluster.node_types if one.name == queue]
    (project,) = [one for one in node_type.projects if one.accounting_string == "VLQ-CZ"]
    (found,) = [one for one in project.command_templates if one.name == command]
    return cluster, node_type, project, found


def ran(command, queue, q_command, staged):
    cluster, node_type, project, found = template(command, queue)
    task = TaskSpecificationExt(
        name="quantum_task",
        min_cores=1,
        max_cores=1,
        walltime_limit=60,
        cluster_node_type_id=node_type.id,
        command_template_id=found.id,
        template_parameter_values=[],
    )
    specification = JobSpecificationExt(
        name="judge",
        project_id=project.id,
        cluster_id=cluster.id,
        file_transfer_method_id=node_type.file_transfer_method_id,
        environment_variables=[EnvironmentVariableExt(name="Q_COMMAND", value=q_command)],
        tasks=[task],
    )
    job = jobs.heappe_job_management_create_job_post(
        CreateJobByProjectModel(job_specification=specification)
    )
    for name, content in staged.items():
        (stored,) = files.heappe_file_transfer_upload_files_to_job_execution_dir_post(
            job_id=job.id, task_id=job.tasks[0].id, files=[(name, content)]
        )
        assert stored.succeeded, stored
        assert stored.file_name == name
    jobs.heappe_job_management_submit_job_put(SubmitJobModel(created_job_info_id=job.id))
    while (
        now := jobs.heappe_job_management_current_info_for_job_get(submitted_job_info_id=job.id)
    ).state < 16:
        time.sleep(0.1)

    def read(name):
        path = f"/{job.id}/{job.tasks[0].id}/{name}"
        body = DownloadFileFromClusterModel(submitted_job_info_id=job.id, relative_file_path=path)
        return json.loads(
            base64.b64decode(files.heappe_file_transfer_download_file_from_cluster_post(body))
        )

    return int(now.state), read


state, read = ran("RunQInit", "init_queue", "get_dynamic_quantum_architecture", {})
architecture = read("dynamic_quantum_architecture.json")
circuit = """OPENQASM 3.0;
include "stdgates.inc";
gate r(theta, phi) a { U(theta, phi - pi/2, pi/2 - phi) a; }
bit[3] meas;
r(pi, 0) $0;
meas[0] = measure $0;
meas[1] = measure $1;
meas[2] = measure $2;
"""
options = {"shots": 100, "calibration_set_id": architecture["calibration_set_id"]}
staged = {"circuit_0000.qasm": circuit.encode(), "run_kwargs.json": json.dumps(options).encode()}
run_state, read = ran("RunQExecute", "compute_queue", "backend_run", staged)
print(
    json.dumps(
        {
            "states": [state, run_state],
            "resonators": architecture["computational_resonators"],
            "measured": read("measurements.json"),
        }
    )
)
