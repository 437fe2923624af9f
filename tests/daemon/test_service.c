// The real daemon over its unix socket: jobs, generation, checkpoints and their errors as a client
// sees them, where the api and the daemon meet. Bad input of every kind leaves it answering.
// argv[1]: the driftd binary.
#include "tests/daemon/fixture.h"

#include "daemon/base/util.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct daemon d;
static struct answer last; // freed by the next request

static int http(const char *method, const char *path, const char *type, const void *body,
                size_t size) {
    char head[100];
    snprintf(head, sizeof head, "Content-Type: %s\r\n", type);
    answer_free(&last);
    assert_true(ask_http(&d, &last, method, path, head, body, size) > 0);
    return last.status;
}
static int get(const char *path) {
    return http("GET", path, "text/plain", NULL, 0);
}
static int post(const char *path, const char *json) {
    return http("POST", path, "application/json", json, json ? strlen(json) : 0);
}
static void says(const char *word) {
    if (!memmem(last.body, last.size, word, strlen(word)))
        fail_msg("no \"%s\" in %d %.600s", word, last.status, last.body);
}

static int setup(void **state) {
    (void)state;
    struct dr_err err;
    char path[300], root[300];
    daemon_open(&d);
    snprintf(path, sizeof path, "%s/broken.json", d.dir);
    assert_int_equal(dd_write_file(path, "{\"modle\": 1}", 12, &err), 0);
    // recipes with a name to encode, one that the interface needs, and one that is no file
    snprintf(path, sizeof path, "%s/zwei W\xc3\xb6rter.json", d.dir);
    assert_int_equal(dd_write_file(path, "\xef\xbb\xbf{\"about\": \"b\"}", 17, &err), 0);
    snprintf(path, sizeof path, "%s/schema.json", d.dir);
    assert_int_equal(dd_write_file(path, "{}", 2, &err), 0);
    snprintf(path, sizeof path, "%s/fifo.json", d.dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    snprintf(root, sizeof root, "--import-root=%s", d.dir);
    daemon_up(&d, (const char *const[]){root, "--log-level=error", NULL});
    return 0;
}
static int teardown(void **state) {
    (void)state;
    int status = daemon_end(&d, SIGTERM);
    answer_free(&last);
    daemon_close(&d);
    return status;
}

static void wait_job(const char *path, const char *state) {
    char want[40];
    snprintf(want, sizeof want, "\"state\":\"%s\"", state);
    for (int i = 0; i < 9000; i++) {
        if (get(path) == 200 && strstr(last.body, want))
            return;
        usleep(10000);
    }
    fail_msg("%s never came to %s: %.300s", path, state, last.body);
}

static void test_job_errors(void **state) {
    (void)state;
    static const struct {
        const char *body;
        int status;
        const char *word;
    } bad[] = {
        {"{\"config\": \"tinny\"}", 422, "tiny"},
        {"{\"config\": \"broken\"}", 422, "model"},
        {"{\"config\": \"../broken\"}", 422, "config"},
        {"{\"config\": \"broken.json\"}", 422, "no recipe named"}, // a name, never a file
        {"{\"config\": {\"model\": {\"dim\": 30, \"heads\": 3, \"pos_embed\": true}}}", 422,
         "multiple of 4"},
        {"{\"config\": \"tiny\", \"overrides\": {\"optim.rl\": 1}}", 422, "optim.lr"},
        {"{\"config\": \"tiny\", \"overrides\": {\"optim.lr\": -1}}", 422, "optim.lr is -1"},
        {"{\"config\": {\"model\": {\"dim\": 30, \"heads\": 4}}}", 422, "heads"},
        {"{\"config\": {\"train\": {\"steps\": \"many\"}}}", 422, "train.steps"},
        {"{\"config\": \"tiny\", \"kind\": \"eval\"}", 422, "eval"},
        {"{\"confg\": \"tiny\"}", 422, "config"},
        {"{", 400, ""},
    };
    for (size_t i = 0; i < DR_COUNT(bad); i++) {
        int status = post("/v1/jobs", bad[i].body);
        if (status != bad[i].status && !(bad[i].status == 422 && status == 400))
            fail_msg("%s gave %d %.300s", bad[i].body, status, last.body);
        says(bad[i].word);
    }
    assert_int_equal(get("/v1/jobs/1"), 404);
    assert_int_equal(post("/v1/jobs/77/stop", NULL), 404);
    assert_int_equal(get("/v1/jobs?state=runing"), 422);
    says("running");
    assert_int_equal(post("/v1/generate?class=1", NULL), 409);
    says("no model yet");
    assert_null(strstr(last.head, "Retry-After")); // no job that would make one
    assert_int_equal(get("/v1/configs"), 200);
    says("broken");
    says("modle");
    says("zwei W\xc3\xb6rter");
    says("the name schema is reserved");
    says("not a regular file");
    assert_int_equal(get("/v1/configs/tiny"), 200);
    assert_int_equal(get("/v1/configs/zwei%20W%C3%B6rter"), 200);
    says("\"name\":\"zwei W\xc3\xb6rter\"");
    assert_int_equal(get("/v1/configs/schema"), 200);
    says("data.set");
    assert_int_equal(get("/v1/configs/fifo"), 422);
    assert_int_equal(post("/v1/jobs", "{\"config\": \"schema\"}"), 422);
    says("reserved");
    assert_int_equal(get("/livez"), 200);
}

static void test_job_life(void **state) {
    (void)state;
    assert_int_equal(post("/v1/jobs", "{\"config\": \"tiny\", \"name\": \"first\"}"), 201);
    assert_non_null(strstr(last.head, "Location: /v1/jobs/1"));
    wait_job("/v1/jobs/1", "completed");
    says("\"step\":60");
    assert_int_equal(get("/v1/jobs/1/metrics?names=loss&max_points=10"), 200);
    says("\"loss\"");
    assert_int_equal(get("/v1/jobs/1/metrics?names=los"), 422);
    says("loss");
    assert_int_equal(get("/v1/jobs/1/metrics?format=csv&max_points=0"), 200);
    assert_int_equal(get("/v1/checkpoints"), 200);
    says("\"step\":60");
    assert_int_equal(get("/v1/samples"), 200);
    says("/v1/samples/1.png");
    assert_int_equal(get("/v1/samples/1.png"), 200);
    assert_memory_equal(last.body, "\x89PNG", 4);
    assert_int_equal(get("/metrics"), 200);
    says("driftd_train_steps_total 60");
    assert_int_equal(get("/readyz"), 200);
    assert_int_equal(post("/v1/db/backup", NULL), 200);
    assert_memory_equal(last.body, "SQLite format 3", 15);
    assert_int_equal(post("/v1/jobs", "{\"config\": \"long\"}"), 201);
    wait_job("/v1/jobs/2", "running");
    assert_int_equal(http("DELETE", "/v1/jobs/2", "text/plain", NULL, 0), 409);
    assert_int_equal(post("/v1/jobs/2/checkpoint", NULL), 202);
    assert_int_equal(post("/v1/jobs/2/pause", NULL), 202);
    wait_job("/v1/jobs/2", "paused");
    assert_int_equal(post("/v1/jobs/2/resume", NULL), 202);
    assert_int_equal(post("/v1/jobs/2/stop?mode=now", NULL), 202);
    wait_job("/v1/jobs/2", "stopped");
    assert_int_equal(post("/v1/jobs/2/pause", NULL), 409);
    assert_int_equal(http("DELETE", "/v1/jobs/2", "text/plain", NULL, 0), 204);
    assert_int_equal(get("/v1/jobs/2"), 404);
    assert_int_equal(get("/v1/status"), 200);
    says("\"training\":null");
}

static void test_generate(void **state) {
    (void)state;
    assert_int_equal(post("/v1/jobs", "{\"config\": \"tiny\"}"), 201);
    wait_job("/v1/jobs/1", "completed");
    assert_int_equal(post("/generate?class=3&cfg=1.5&seed=4", NULL), 200);
    assert_memory_equal(last.body, "\x89PNG", 4);
    assert_non_null(strstr(last.head, "Driftd-Seed: 4"));
    size_t size = last.size;
    char *first = dd_xcalloc(size, 1);
    memcpy(first, last.body, size);
    assert_int_equal(get("/v1/generate?class=3&cfg=1.5&seed=4"), 200);
    assert_int_equal(last.size, size);
    assert_memory_equal(last.body, first, size);
    free(first);
    assert_int_equal(get("/v1/generate?class=99"), 422);
    says("9");
    assert_int_equal(get("/v1/generate?class=1&cfg=-2"), 422);
    assert_int_equal(get("/v1/generate?clas=1"), 400);
    says("class");
    assert_int_equal(get("/v1/generate?class=1&checkpoint=55"), 404);
    assert_int_equal(get("/v1/generate?class=1&n=100000"), 422);
    assert_int_equal(get("/v1/generate?class=0,1,2&n=3&format=npy"), 200);
    assert_memory_equal(last.body, "\x93NUMPY", 6);
    assert_int_equal(get("/v1/generate?class=random&n=4&format=json&seed=1"), 200);
    says("\"images\"");
}

static void test_import(void **state) {
    (void)state;
    struct dr_err err;
    char *file, path[600], body[800];
    size_t n;
    assert_int_equal(post("/v1/jobs", "{\"config\": \"tiny\"}"), 201);
    wait_job("/v1/jobs/1", "completed");
    snprintf(path, sizeof path, "%s/s/checkpoints/1/step-00000060.safetensors", d.dir);
    assert_int_equal(dd_read_file(path, 1 << 24, &file, &n, &err), 0);
    assert_int_equal(http("POST", "/v1/checkpoints?name=mine", "application/octet-stream", file, n),
                     201);
    says("\"import\"");
    assert_non_null(strstr(last.head, "Location: /v1/checkpoints/"));
    assert_int_equal(get("/v1/generate?class=1&checkpoint=latest"), 200);
    // Lies and cuts: an error, not a crash, and nothing left behind.
    memset(file, 0xff, 8);
    assert_int_equal(http("POST", "/v1/checkpoints", "application/octet-stream", file, n), 422);
    says("\"the file: header length");
    assert_null(strstr(last.body, "upload"));
    assert_int_equal(http("POST", "/v1/checkpoints", "application/octet-stream", file + 100, 3),
                     422);
    free(file);
    snprintf(body, sizeof body, "{\"path\": \"%s\"}", path);
    assert_int_equal(post("/v1/checkpoints", body), 201);
    assert_int_equal(post("/v1/checkpoints", "{\"path\": \"/etc/passwd\"}"), 403);
    snprintf(body, sizeof body, "{\"path\": \"%s/../../../../../../../../etc/passwd\"}", d.dir);
    assert_int_equal(post("/v1/checkpoints", body), 403);
    snprintf(body, sizeof body, "{\"path\": \"%s/tiny.json\"}", d.dir);
    assert_int_equal(post("/v1/checkpoints", body), 422);
    assert_int_equal(post("/v1/checkpoints/1/activate", NULL), 200);
    assert_int_equal(get("/v1/generate?class=1"), 200);
    assert_non_null(strstr(last.head, "Driftd-Checkpoint: 1\r"));
    assert_int_equal(post("/v1/checkpoints/999/activate", NULL), 404);
    assert_int_equal(get("/v1/checkpoints/1/file"), 200);
    snprintf(path, sizeof path, "test -z \"$(ls -A %s/s/uploads)\"", d.dir);
    assert_int_equal(system(path), 0);
    assert_int_equal(get("/livez"), 200);
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    d.binary = argv[1];
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_job_errors), T(test_job_life), T(test_generate),
                                       T(test_import)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
