#!/usr/bin/env python3
"""Forwards a job of driftd to MLflow while it runs (or afterwards): metrics, grids, settings.

    python3 forward_mlflow.py JOB [EXPERIMENT]    needs mlflow, numpy and driftd.py beside it

The tracking server is the one of MLFLOW_TRACKING_URI, the daemon that of DRIFTD_URL.
"""
import os
import sys
import tempfile

import driftd


def flat(config, prefix=""):
    """{"optim": {"lr": 1}} as {"optim.lr": 1}"""
    out = {}
    for key, value in config.items():
        out.update(flat(value, prefix + key + ".") if isinstance(value, dict) else {prefix + key: value})
    return out


def forward(job, experiment="driftd", every=2):
    import mlflow

    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name="%s (job %s)" % (job.name, job.id)):
        mlflow.set_tag("driftd.job", job.id)
        params = list(flat(job.info.get("config") or {}).items())
        for i in range(0, len(params), 100):  # as many as one request takes
            mlflow.log_params(dict(params[i:i + 100]))
        for step, values in job.rows(1, every):
            mlflow.log_metrics(values, step=step)
        with tempfile.TemporaryDirectory() as folder:
            for grid in job.grids():
                path = os.path.join(folder, "samples-%08d.png" % grid["step"])
                with open(path, "wb") as f:
                    f.write(job.grid(grid["id"]))
                mlflow.log_artifact(path, "samples")
        mlflow.set_tag("driftd.state", job.state)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    forward(driftd.Driftd().job(sys.argv[1]), *sys.argv[2:])
