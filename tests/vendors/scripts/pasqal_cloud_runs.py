"""Runs a sequence once and in a batch of ten with pasqal-cloud: URL, project, device, token file, sequence file."""

import json
import sys
from pathlib import Path

from pasqal_cloud import SDK, Endpoints
from pasqal_cloud.authentication import TokenProvider
from pasqal_cloud.device import DeviceTypeName

url, project, device_type, token_file, file = sys.argv[1:]


class Stored(TokenProvider):
    def get_token(self):
        return json.loads(Path(token_file).read_text("utf-8"))["access_token"]


endpoints = Endpoints(core=url, account=f"{url}/account")
sdk = SDK(token_provider=Stored(), endpoints=endpoints, project_id=project)
sequence = Path(file).read_text("utf-8")


def run(runs, tag):
    jobs = [{"runs": 100} for _ in range(runs)]
    batch = sdk.create_batch(
        sequence, jobs=jobs, wait=True, tags=[tag], device_type=DeviceTypeName[device_type]
    )
    return [job.result for job in batch.ordered_jobs]


found = {
    "devices": list(sdk.get_device_specs_dict()),
    "one": run(1, "one"),
    "ten": run(10, "ten"),
}
print(json.dumps(found))
