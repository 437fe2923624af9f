// The commands of driftctl: names, arguments, options, help. The parser, the help texts and the
// shell completions come from this table.
#include "api/client/ctl.h"

#define WHOLE(lo, hi) CTL_INT, lo, hi
#define FRACTION(lo, hi) CTL_REAL, lo, hi
#define ANY 9e15 // no upper limit here: the server has its own
#define OPTS(...) ((const struct ctl_opt[]){__VA_ARGS__, {0}})

const struct ctl_opt ctl_common[] = {
    {"url", 'u', "URL", "server, http(s)://HOST:PORT or unix:PATH (DRIFTD_URL)"},
    {"token-file", 0, "FILE", "bearer token (DRIFTD_TOKEN_FILE)"},
    {"ca-file", 0, "FILE", "certificate to trust, PEM (DRIFTD_CA_FILE)"},
    {"timeout", 0, "S", "seconds to wait for an answer; 0: for ever (60)", FRACTION(0, 1e6)},
    {"json", 'j', NULL, "print JSON, problems too"},
    {"help", 'h', NULL, "show help"},
    {"version", 'V', NULL, "show the version"},
    {0}};

#define TRAIN_OPTS                                                                                 \
    {"set", 's', "KEY=VALUE", "change a key of the recipe; repeatable"},                           \
        {"name", 'n', "NAME", "name of the job"},                                                  \
        {"priority", 'p', "N", "higher runs first", WHOLE(-1000, 1000)},                           \
        {"follow", 'f', NULL, "show progress until the job ends"}, {                               \
        "key", 0, "KEY", "idempotency key: the same key never makes a second job"                  \
    }

static const struct ctl_opt image_opts[] = {
    {"class", 'c', "LIST", "index, name, range or list; default random"},
    {"cfg", 'a', "SCALE", "guidance scale, or a list"},
    {"n", 'n', "N", "images", WHOLE(1, ANY)},
    {"seed", 's', "N", "seed; the same seed gives the same bytes", WHOLE(0, ANY)},
    {"grid", 'g', "CxR", "columns x rows"},
    {"scale", 'x', "N", "magnification", WHOLE(1, ANY)},
    {"format", 'f', "FORMAT", "png, json, zip, npy or apng"},
    {"checkpoint", 'k', "ID", "served (default), live, latest or an id"},
    {"guidance", 0, "KIND", "one-step or two-pass"},
    {"weights", 0, "SET", "ema, the average that is served, or raw"},
    {"temperature", 't', "X", "scale of the noise (1)", FRACTION(0, 10)},
    {"seed2", 0, "N", "walk from the noise of the seed to that of this one", WHOLE(0, ANY)},
    {"steps", 0, "N", "images of a walk (16)", WHOLE(2, 256)},
    {"noise", 0, "FILE", "own noise: a npy file"},
    {"timeout-ms", 0, "MS", "the server gives up after this time", WHOLE(1, ANY)},
    {"output", 'o', "FILE", "file to write; - is standard output"},
    {0}};

static const struct ctl_opt sweep_opts[] = {
    {"class", 'c', "LIST", "index, name, range or list; default random"},
    {"from", 0, "SCALE", "first guidance scale (1)", FRACTION(0, 1000)},
    {"to", 0, "SCALE", "last guidance scale (4)", FRACTION(0, 1000)},
    {"rows", 'r', "N", "number of scales (7)", WHOLE(1, 32)},
    {"n", 'n', "N", "images per row (8)", WHOLE(1, ANY)},
    {"seed", 's', "N", "seed; every row has the same noise", WHOLE(0, ANY)},
    {"scale", 'x', "N", "magnification", WHOLE(1, ANY)},
    {"checkpoint", 'k', "ID", "served (default), live, latest or an id"},
    {"output", 'o', "FILE", "file to write; - is standard output"},
    {0}};

const struct ctl_command ctl_commands[] = {
    {"train", "CONFIG", "start a training job from a recipe or a JSON file", 1, 1, OPTS(TRAIN_OPTS),
     ctl_cmd_train},
    {"jobs", "", "list jobs", 0, 0,
     OPTS({"state", 's', "STATE", "only jobs in this state"},
          {"limit", 'l', "N", "at most N (50)", WHOLE(1, 1000)}, {"all", 0, NULL, "all pages"}),
     ctl_cmd_jobs},
    {"job", "ID", "show one job", 1, 1, NULL, ctl_cmd_job},
    {"edit", "ID", "change a job's name or notes", 1, 1,
     OPTS({"name", 'n', "NAME", "new name"}, {"notes", 0, "TEXT", "new notes"}), ctl_cmd_edit},
    {"follow", "ID", "show a job's progress until it ends", 1, 1, NULL, ctl_cmd_follow},
    {"stop", "ID", "stop a job; its checkpoint stays", 1, 1,
     OPTS({"now", 0, NULL, "do not finish the step"}), ctl_cmd_stop},
    {"pause", "ID", "pause a job", 1, 1, NULL, ctl_cmd_pause},
    {"resume", "ID", "resume a paused, stopped or interrupted job", 1, 1,
     OPTS({"follow", 'f', NULL, "show progress until the job ends"}), ctl_cmd_resume},
    {"checkpoint", "ID", "write a checkpoint of a running job now", 1, 1, NULL, ctl_cmd_checkpoint},
    {"remove", "ID", "delete a job that has ended", 1, 1, NULL, ctl_cmd_remove},
    {"sample", "", "generate images", 0, 0, image_opts, ctl_cmd_sample},
    {"sweep", "", "one row of images for each of several guidance scales", 0, 0, sweep_opts,
     ctl_cmd_sweep},
    {"eval", "", "evaluate a checkpoint, or those of a job", 0, 0,
     OPTS({"kind", 0, "KIND", "kind of evaluation"}, {"checkpoint", 'k', "ID", "one checkpoint"},
          {"job", 0, "ID", "every checkpoint of a job"},
          {"skip-existing", 0, NULL, "skip those that have been evaluated"}),
     ctl_cmd_eval},
    {"checkpoints", "", "list checkpoints", 0, 0,
     OPTS({"job", 0, "ID", "only of this job"},
          {"limit", 'l', "N", "at most N (50)", WHOLE(1, 1000)}, {"all", 0, NULL, "all pages"}),
     ctl_cmd_checkpoints},
    {"serve", "[ID|live|auto]",
     "serve a checkpoint, the running job, or the newest completed job; show what is served", 0, 1,
     NULL, ctl_cmd_serve},
    {"activate", "ID", "the same as serve ID", 1, 1, NULL, ctl_cmd_activate},
    {"export", "ID", "download a checkpoint, or with --format one model for other programs", 1, 1,
     OPTS(
         {"format", 'f', "FORMAT", "safetensors, onnx or pytorch; without it the whole checkpoint"},
         {"weights", 'w', "WEIGHTS", "ema (averaged) or raw; without it the whole checkpoint"},
         {"output", 'o', "FILE", "file to write (ID.safetensors); - is standard output"}),
     ctl_cmd_export},
    {"import", "FILE", "upload a safetensors file", 1, 1,
     OPTS({"name", 'n', "NAME", "name of the checkpoint"},
          {"config", 'c', "RECIPE", "recipe, for a file without driftd.config"},
          {"path", 0, NULL, "FILE is a path on the server, below its import roots"}),
     ctl_cmd_import},
    {"metrics", "ID", "metrics of a job", 1, 1,
     OPTS({"names", 0, "LIST", "only these"}, {"from", 0, "STEP", "first step", WHOLE(0, ANY)},
          {"to", 0, "STEP", "last step", WHOLE(0, ANY)},
          {"max-points", 0, "N", "buckets per metric; 0: every row", WHOLE(0, ANY)},
          {"csv", 0, NULL, "CSV, every row"}, {"ndjson", 0, NULL, "one JSON object per line"},
          {"output", 'o', "FILE", "file to write; - is standard output"}),
     ctl_cmd_metrics},
    {"fetch", "SET", "download mnist, fashion-mnist or cifar10", 1, 1,
     OPTS({"data-dir", 'd', "DIR",
           "data directory (DRIFTD_DATA, else the daemon's default for this user)"},
          {"mirror", 'm', "URL", "folder to download from instead of the known ones; repeatable"},
          {"from", 0, "DIR", "take the files from a local folder"},
          {"list", 0, "FILE", "files of a set of your own, as md5sum prints them"}),
     ctl_cmd_fetch},
    {"data", "ACTION", "data sets: add NAME PATH, list, show, remove, samples or train NAME", 1, 3,
     OPTS({"size", 0, "N", "add: height and width of the pictures; chosen without it",
           WHOLE(1, 1024)},
          {"fit", 0, "HOW", "add: crop, fit, resize or pad (crop)"},
          {"channels", 0, "N", "add: 1 grey, 3 colour; chosen without it", WHOLE(1, 3)},
          {"background", 0, "#RRGGBB", "add: colour under transparency and around pictures"},
          {"test-share", 0, "X", "add: share of each class to test with (0.1)", FRACTION(0, 0.9)},
          {"seed", 0, "N", "add: seed of that choice", WHOLE(0, ANY)},
          {"strict", 0, NULL, "add: fail at the first bad file"},
          {"upload", 0, NULL, "add: upload even where the daemon could read the path"},
          {"path", 0, NULL, "add: PATH is one of the server, below its data directory"},
          {"no-wait", 0, NULL, "add: return while the pictures are decoded"},
          {"class", 'c', "CLASS", "samples: of this class alone"},
          {"n", 'n', "N", "samples: pictures per class (8)", WHOLE(1, 128)},
          {"minutes", 'm', "MINUTES", "train: training time (10)", FRACTION(0.1, 1e5)},
          {"follow", 'f', NULL, "train: show progress until the job ends"},
          {"output", 'o', "FILE", "samples: file to write (NAME.png); - is standard output"}),
     ctl_cmd_data},
    {"db", "backup [FILE]", "write a consistent copy of the database", 1, 2,
     OPTS({"output", 'o', "FILE", "file to write (driftd-DATE.sqlite); - is standard output"}),
     ctl_cmd_db},
    {"status", "", "state of the server", 0, 0, NULL, ctl_cmd_status},
    {"configs", "[NAME]", "list recipes, or show one", 0, 1,
     OPTS({"keys", 0, NULL, "every key that --set takes, one per line"}), ctl_cmd_configs},
    {"completion", "SHELL", "print the completion for bash, zsh or fish", 1, 1, NULL,
     ctl_cmd_completion},
    {"help", "[COMMAND]", "show help", 0, 1, NULL, ctl_cmd_help},
    {0}};
