"""No-op tasks through prefect-dask's task runner (its own environment)."""

import json
import os
import statistics
import sys
import time

from distributed import LocalCluster
from prefect import flow, task
from prefect_dask import DaskTaskRunner


@task
def nothing(value: int) -> int:
    return value


ROUNDS = 3


def main(tasks: int) -> None:
    cluster = LocalCluster(
        n_workers=len(os.sched_getaffinity(0)),
        threads_per_worker=1,
        dashboard_address=None,
        host="127.0.0.1",
    )

    @flow(task_runner=DaskTaskRunner(address=cluster.scheduler_address))
    def measure() -> float:
        [f.result() for f in nothing.map(list(range(4)))]
        rates = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            [f.result() for f in nothing.map(list(range(tasks)))]
            rates.append(tasks / (time.perf_counter() - start))
        return statistics.median(rates)

    print(json.dumps({"rate": measure()}))
    cluster.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
