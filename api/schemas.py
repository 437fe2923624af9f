#!/usr/bin/env python3
"""Schemas of bodies, and which route takes and returns which: compiled into the server as JSON text,
from which openapi.c makes the document. usage: schemas.py OUT.c

A test compares every answer of a running daemon with what is written here: a member that is missing
below, or has another type, fails it.
"""
import json
import sys

S, I, N, B = {"type": "string"}, {"type": "integer"}, {"type": "number"}, {"type": "boolean"}
ANY = {"type": "object", "additionalProperties": True}


def null(schema):
    """The same, or null."""
    if "type" in schema:
        return schema | {"type": [schema["type"], "null"]}
    return {"oneOf": [schema, {"type": "null"}]}


def ref(name):
    return {"$ref": f"#/components/schemas/{name}"}


def array(items):
    return {"type": "array", "items": items}


def of(value):
    """An object with any names and such values."""
    return {"type": "object", "additionalProperties": value}


def obj(optional=(), **members):
    """Members are always there, but for those that are named in `optional`."""
    return {"type": "object", "properties": members,
            "required": [m for m in members if m not in optional]}


def body(required=(), **members):
    """What a client sends: nothing else is taken."""
    return {"type": "object", "properties": members, "required": list(required), "additionalProperties": False}


def page(key, name, **more):
    return obj(["next_cursor"], **{key: array(ref(name))}, **more, next_cursor=S)


def words(*values):
    return {"type": "string", "enum": list(values)}


def whole(low, high):
    return {"type": "integer", "minimum": low, "maximum": high}


TIME = {"type": "string", "format": "date-time"}
STATE = words("queued", "running", "paused", "stopping", "completed", "failed", "stopped", "interrupted")
NAME = {"type": "string", "maxLength": 200}
PRIORITY = whole(-1000, 1000)

SCHEMAS = {
    "Any": ANY,
    "Problem": obj(["instance", "retry_after", "errors", "error"], type=S, title=S, status=I, detail=S, instance=S,
                   retry_after=N,
                   errors=array(obj(field=S, message=S)) | {
                       "maxItems": 24, "description": "everything that is wrong; `detail` says the first"}, error=ANY),
    "Job": obj(["config", "class_names"], id=S, name=S, notes=S, kind=S, recipe=S, state=STATE, priority=PRIORITY,
               created=TIME, started=null(TIME), ended=null(TIME), step=I, steps_total=I, seconds=N,
               progress={"type": "number", "minimum": 0, "maximum": 1}, attempts=I, eta_seconds=null(N), error=null(S),
               data=null(S), needs=null(S), waits_for=null(obj(id=S, name=S, state=S)), ahead=I,
               sweep=null(S), cell=null(I), changed=null(ANY), sample=null(S), config=ANY,
               class_names=null(array(S))),
    "JobList": page("jobs", "Job"),
    "JobCreate": body(["config"], config={"oneOf": [S, ANY]}, overrides=ANY, name=NAME, priority=PRIORITY | {"default": 0}),
    "JobPatch": body(name=NAME, notes={"type": "string", "maxLength": 65536},
                     priority=PRIORITY | {"description": "of a job that is queued"}),
    "Metrics": obj(job=S, columns=array(S), series=array(obj(name=S, rows=array(array(null(N)))))),
    "Field": obj(job=S, step=I, columns=array(S), samples=array(array(N)), data=array(array(N))),
    "Checkpoint": obj(id=S, job=null(S), name=S, notes=S, tags=array(S), kind=S, step=I, bytes=I, sha256=S,
                      state=words("ok", "corrupt", "removed"), active=B, best=B, created=TIME, model=null(ANY), net=null(S)),
    "CheckpointList": page("checkpoints", "Checkpoint"),
    "CheckpointPatch": body(name=NAME, notes={"type": "string", "maxLength": 65536},
                            tags={"type": "array", "maxItems": 32,
                                  "items": {"type": "string", "pattern": "^[a-z][a-z0-9._-]{0,62}$"}}),
    "Activated": {"oneOf": [ref("Checkpoint"), obj(active={"type": "null"})]},
    "ImportByPath": body(["path"], path=S, name=NAME, config=S),
    "Served": obj(mode=words("auto", "live", "checkpoint"), checkpoint=null(S), job=null(S), step=null(I),
                  why=null(words("promoted", "completed", "live", "latest")), text=S),
    "Serve": body(["checkpoint"], checkpoint=S),
    "Sample": obj(id=S, job=S, step=I, bytes=I, width=I, height=I, created=TIME, url=S),
    "SampleList": page("samples", "Sample"),
    "Dataset": obj(["error", "created", "ended", "uploaded", "options", "train", "test", "bytes", "classes", "report",
                    "fingerprint", "received", "progress", "size", "channels", "class_count"],
                   name=S, kind=S, state=words("uploading", "importing", "ready", "failed", "missing"), own=B, source=S,
                   options=ANY, error=null(S), created=TIME, ended=null(TIME), uploaded=B, size=null(I), channels=null(I),
                   train=null(I), test=null(I), bytes=null(I), class_count=null(I), fingerprint=null(S), received=I,
                   progress=null(N), classes=null(array(obj(name=S, train=I, test=I))), report=ANY),
    "DatasetList": obj(datasets=array(ref("Dataset"))),
    "DatasetCreate": body(["name"], name={"type": "string", "maxLength": 63}, path=S, source=S,
                          options=body(size=whole(0, 1024), channels={"type": "integer", "enum": [0, 1, 3]},
                                       fit=words("crop", "fit", "resize", "pad"), background=S, test_share=N, seed=I,
                                       refuse_bad=B)),
    "DatasetReceived": obj(name=S, received=I),
    "DatasetRecipe": obj(config=ANY),
    "Eval": obj(["details"], id=S, kind=S, job=null(S), job_name=S, eval_job=null(S), checkpoint=null(S), name=S,
                folder=null(S), step=I, epoch=null(N), state=words("queued", "running", "done", "failed"), error=null(S),
                best=B, progress=N, settings=ANY, comparable=null(S), results=of(null(N)), errors=of(null(N)),
                floors=of(null(N)), training=ANY, created=TIME, started=null(TIME), ended=null(TIME), seconds=N,
                artifacts=array(obj(name=S, bytes=I, url=S)), details=ANY),
    "EvalList": page("evals", "Eval", metrics=array(ANY), kinds=array(S)),
    "EvalCreate": body(checkpoint=S, job=S, folder=S, n=I, alpha={"oneOf": [N, array(N)]}, seed=I, split=S,
                       weights=words("ema", "raw"), batch=I, metrics=S, judge=S, inception=S, resize=S, skip_existing=B,
                       samples=B, allow_own_encoder=B, share=N, data={"oneOf": [S, ANY]}, name=NAME, kind=S, settings=ANY, priority=PRIORITY),
    "EvalCurve": obj(metric=S, x=words("step", "alpha"), series=array(ANY)),
    "Alerts": obj(alerts=array(ANY)),
    "Sweep": ANY | {"description": "as in docs/api.md"},
    "SweepList": page("sweeps", "Sweep"),
    "SweepCurve": ANY | {"description": "as in docs/api.md"},
    "SweepCreate": body(["name", "recipes"], name={"type": "string", "maxLength": 100}, about=S,
                        recipes={"oneOf": [array(S), ANY]}, overrides=ANY, axes=ANY, skip=array(ANY),
                        seeds={"oneOf": [I, array(I)]}, eval=ANY, metrics=array(S), search=ANY, priority=I),
    "Recipe": obj(["about", "steps", "minutes", "size", "classes", "error", "kind"], name=S, about=S, steps=I, minutes=N,
                  size=I, classes=I, error=null(S), kind=S),
    "RecipeList": obj(configs=array(ref("Recipe"))),
    "RecipeKeys": array(obj(["min", "max", "max_items", "values", "max_length", "kind"], path=S, type=S, default={}, doc=S,
                            min=N, max=N, max_items=I, values=array(S), max_length=I, kind=S)),
    "Generate": ANY | {"description": "the query parameters as members"},
    "Generated": ANY,
    "ImageCreate": {"type": "object", "required": ["prompt"],
                    "properties": dict(prompt=S, n=I, size=S, model=S, response_format=words("b64_json"), seed=I, cfg=N,
                                       temperature={"type": "number", "minimum": 0, "maximum": 10})},
    "Images": obj(created=I, data=array(obj(b64_json=S)), driftd=ANY),
    "Status": obj(version=S, git=S, boot=I, uptime_seconds=N, state=words("running", "stopping"),
                  training=null(obj(job=S, name=S, step=I, steps_total=I, steps_per_second=null(N), seconds=null(N),
                                    eta_seconds=null(N), loss=null(N), drift_norm=null(N))),
                  queued_jobs=I, store=obj(bytes=I, disk_free=I, failures=I, metrics_dropped=I, checkpoint_failures=I),
                  generation=obj(serving=null(S), served=ref("Served"), waiting=I, queue_limit=I, images=I, batches=I,
                                 abandoned=I, failed=I, images_per_second=N, max_batch=I, max_n=I, device=S),
                  machine=obj(threads=I, processors=I, cores=I, description=S, quota=null(N), memory_limit=null(I),
                              memory_left=null(I)),
                  http=obj(requests=I, responses_4xx=I, responses_503=I, responses_5xx=I, shed=I, reaped=I, connections=I,
                           sse_clients=I, generates_waiting=I)),
    "Health": obj(["checkpoint", "error"], status=S, checkpoint=S, error=ANY),
    "Ready": obj(checks=of(S)),
    "Backup": obj(id=S, created=TIME, bytes=I, files=array(obj(path=S, bytes=I, url=S))),
}

# METHOD PATH: what it returns as JSON, and what JSON it takes.
ROUTES = {
    "GET /v1/generate": ["Generated"], "POST /v1/generate": ["Generated", "Generate"],
    "GET /generate": ["Generated"], "POST /generate": ["Generated", "Generate"],
    "POST /v1/images/generations": ["Images", "ImageCreate"],
    "GET /v1/jobs": ["JobList"], "POST /v1/jobs": ["Job", "JobCreate"], "GET /v1/jobs/{id}": ["Job"],
    "PATCH /v1/jobs/{id}": ["Job", "JobPatch"], "POST /v1/jobs/{id}/stop": ["Job"], "POST /v1/jobs/{id}/pause": ["Job"],
    "POST /v1/jobs/{id}/resume": ["Job"], "POST /v1/jobs/{id}/checkpoint": ["Job"],
    "GET /v1/jobs/{id}/metrics": ["Metrics"], "GET /v1/jobs/{id}/field": ["Field"],
    "GET /v1/checkpoints": ["CheckpointList"], "POST /v1/checkpoints": ["Checkpoint", "ImportByPath"],
    "GET /v1/checkpoints/{id}": ["Checkpoint"], "PATCH /v1/checkpoints/{id}": ["Checkpoint", "CheckpointPatch"],
    "POST /v1/checkpoints/{id}/activate": ["Activated"],
    "GET /v1/served": ["Served"], "PUT /v1/served": ["Served", "Serve"], "DELETE /v1/served": ["Served"],
    "GET /v1/datasets": ["DatasetList"], "POST /v1/datasets": ["Dataset", "DatasetCreate"],
    "GET /v1/datasets/{id}": ["Dataset"], "PUT /v1/datasets/{id}/upload": ["DatasetReceived"],
    "POST /v1/datasets/{id}/import": ["Dataset"], "GET /v1/datasets/{id}/recipe": ["DatasetRecipe"],
    "GET /v1/evals": ["EvalList"], "POST /v1/evals": ["Job", "EvalCreate"], "GET /v1/evals/{id}": ["Eval"],
    "GET /v1/evals/{id}/files/{name}": ["Any"], "GET /v1/evals/curve": ["EvalCurve"],
    "GET /v1/samples": ["SampleList"], "GET /v1/configs": ["RecipeList"], "GET /v1/configs/schema": ["RecipeKeys"],
    "GET /v1/configs/{id}": ["Any"], "GET /v1/status": ["Status"], "GET /health": ["Health"], "GET /readyz": ["Ready"],
    "GET /v1/jobs/{id}/alerts": ["Alerts"],
    "GET /v1/sweeps": ["SweepList"], "POST /v1/sweeps": ["Sweep", "SweepCreate"], "GET /v1/sweeps/{id}": ["Sweep"],
    "GET /v1/sweeps/{id}/curve": ["SweepCurve"], "POST /v1/sweeps/{id}/stop": ["Sweep"],
    "POST /v1/sweeps/{id}/resume": ["Sweep"],
    "POST /v1/backups": ["Backup"], "GET /openapi.json": ["Any"],
}


def main():
    text = json.dumps({"schemas": SCHEMAS, "routes": ROUTES}, separators=(",", ":"), ensure_ascii=True).encode()
    with open(sys.argv[1], "w", encoding="ascii") as f:
        f.write('// Made by api/schemas.py.\n#include "api/routes.h"\n\nconst char api_schemas[] = {\n')
        for i in range(0, len(text), 24):
            f.write(",".join(map(str, text[i:i + 24])) + ",\n")
        f.write("0};\n")


main()
