// The handlers, and what else the files that hold them offer to the server.
#pragma once

#include "api/req.h"

api_handler api_h_generate, api_h_openai, api_h_events, api_h_job_events;
api_handler api_h_job_create, api_h_job_list, api_h_job_get, api_h_job_patch, api_h_job_remove,
    api_h_job_stop, api_h_job_pause, api_h_job_resume, api_h_job_checkpoint, api_h_job_metrics;
api_handler api_h_ckpt_list, api_h_ckpt_get, api_h_ckpt_patch, api_h_ckpt_remove,
    api_h_ckpt_activate, api_h_served_get, api_h_served_put, api_h_served_auto, api_h_ckpt_file,
    api_h_ckpt_import;
api_handler api_h_dataset_list, api_h_dataset_get, api_h_dataset_create, api_h_dataset_upload,
    api_h_dataset_import, api_h_dataset_remove, api_h_dataset_samples, api_h_dataset_recipe;
api_handler api_h_config_list, api_h_config_get, api_h_config_schema;
api_handler api_h_job_field, api_h_job_alerts, api_h_metrics_csv;
api_handler api_h_sample_list, api_h_sample_png;
api_handler api_h_eval_list, api_h_eval_get, api_h_eval_create, api_h_eval_remove, api_h_eval_csv,
    api_h_eval_curve, api_h_eval_plot, api_h_eval_file;
api_handler api_h_sweep_list, api_h_sweep_create, api_h_sweep_get, api_h_sweep_stop,
    api_h_sweep_resume, api_h_sweep_remove, api_h_sweep_csv, api_h_sweep_markdown,
    api_h_sweep_curve, api_h_sweep_plot;
api_handler api_h_status, api_h_livez, api_h_health, api_h_readyz, api_h_prometheus, api_h_openapi,
    api_h_backup, api_h_backup_make, api_h_backup_file, api_h_backup_remove;

// jobs.c: the members of a POST /v1/jobs body; errors go to p
void api_parse_job(json_t *o, struct api_job_create *in, struct api_problem *p);

// genparse.c: fills `out` (images malloc'ed) from the query; checks it against the model
int api_gen_parse(struct api_req *r, struct api_gen_request *out, struct api_problem *p);

// genbody.c: the members of a JSON body as parameters, a npy body as noise. Between the items of a
// list of classes stands what no name has.
#define API_ITEMS "\x1f"
int api_gen_add(struct api_req *r, const char *key, const json_t *v, struct api_problem *p);
int api_gen_body(struct api_req *r, struct api_gen_request *out, struct api_problem *p);

// generate.c
void api_gen_tick(struct api_server *s, uint64_t now, bool poll_sockets);
void api_gen_shutdown(struct api_server *s); // answers every waiting request 503
int api_gen_waiting(struct api_server *s);
enum MHD_Result api_gen_resume(struct api_req *r);
void api_gen_drop(struct api_req *r); // the request ended without its result

// sse.c
int api_sse_create(struct api_server *s);
void api_sse_free(struct api_server *s);
void api_sse_tick(struct api_server *s, uint64_t now);
void api_sse_close(struct api_server *s);   // ends every stream
void api_sse_recheck(struct api_server *s); // ends those whose tokens do not hold any more
int api_sse_count(struct api_server *s);

// page.c: `/` and the asset table
bool api_page_find(struct api_server *s, const char *path);
api_handler api_h_page;
