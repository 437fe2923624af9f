#!/usr/bin/env python3
"""Forwards a job of driftd to Weights & Biases while it runs (or afterwards): metrics, grids, configuration.

    python3 forward_wandb.py JOB [PROJECT]        needs wandb, numpy and driftd.py beside it

The run's id comes from the job, so that a second call goes on instead of beginning anew. The server is the
one of DRIFTD_URL.
"""
import io
import sys

import driftd


def forward(job, project="driftd", every=2):
    import wandb

    run = wandb.init(project=project, id="driftd-job-%s" % job.id, name=job.name, config=job.info.get("config"),
                     resume="allow")
    start = int(run.summary.get("driftd/step", 0)) + 1
    for step, values in job.rows(start, every):
        run.log(dict(values, **{"driftd/step": step}), step=step)
    for grid in reversed(job.grids()):  # with their own step: a run's steps only grow
        from PIL import Image  # wandb brings it along for its images

        picture = wandb.Image(Image.open(io.BytesIO(job.grid(grid["id"]))), caption="step %d" % grid["step"])
        run.log({"samples": picture, "samples/step": grid["step"]})
    run.finish(exit_code=0 if job.state == "completed" else 1)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    forward(driftd.Driftd().job(sys.argv[1]), *sys.argv[2:])
