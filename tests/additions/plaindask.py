"""A compute kind: Dask as it comes."""

from __future__ import annotations

from distributed import Client, KilledWorker, LocalCluster

from orchestrator.compute.api import ComputeError
from orchestrator.compute.fanout import fan_out_on
from orchestrator.compute.remote_call import run_timed


class PlainDask:
    """Dask as it comes. options: ``most_hours``, the longest walltime."""

    def __init__(self, settings, run=None):
        if set(settings.options) - {"most_hours"}:
            raise ValueError(f"options {sorted(settings.options)}; there is: most_hours")
        self._settings, self._run = settings, run
        self._open, self._closed = None, False

    @staticmethod
    def lacks(settings, demand):
        lacking = {"gpus": "it has none"} if demand.gpus else {}
        hours = settings.options.get("most_hours", 1)
        if demand.walltime is not None and demand.walltime.total_seconds() > hours * 3600:
            lacking["walltime"] = f"the queue takes {hours} hours at the most"
        return lacking

    def start(self):
        self._client()

    def run(self, remote, args, kwargs):
        try:
            return self._client().submit(run_timed, remote, args, kwargs, pure=False).result()
        except KilledWorker as error:
            raise ComputeError(f"its worker died: {error}") from error

    def fan_out(self, function, items, spread):
        return fan_out_on(self._client(), function, items, spread)

    def close(self):
        self._closed = True
        if self._open is not None:
            client, cluster = self._open
            self._open = None
            client.close()
            cluster.close()

    def _client(self):
        if self._closed:
            raise ComputeError("closed")
        if self._open is None:
            cluster = LocalCluster(
                n_workers=self._settings.workers, threads_per_worker=1, dashboard_address=None
            )
            self._open = Client(cluster, set_as_default=False), cluster
            if self._run is not None and self._run.on_connect is not None:
                self._run.on_connect(self._open[0])
        return self._open[0]
