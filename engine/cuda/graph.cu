// Recording what a function does as a CUDA graph and replaying it: a training step, a forward pass
// of one batch size. Called through the vtable by the trainer and the sampler.
//
// The first call runs the ops themselves, so that workspaces grow and libraries load what they
// need; the second records. A workspace that has moved since makes a recording void: it is made
// again. What the driver refuses to record or to instantiate, for want of memory say, is no error:
// the ops run directly, and bring one to light if there is one.
#include "engine/cuda/launch.h"

#include <new>

std::recursive_mutex dr_cuda_still;

enum { REFUSALS = 3 }; // then a graph is not tried again

struct dr_graph {
    cudaGraphExec_t exec; // NULL: nothing is recorded
    unsigned moves;       // of the workspaces, when it was
    int refused;          // by the driver, so often
    bool ran;             // the ops have run once
};

static void drop(struct dr_backend *be, struct dr_graph *g) {
    if (!g->exec)
        return;
    std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
    dr_cuda_check(be, cudaStreamSynchronize(dr_cuda_of(be)->stream), "graph"); // it may be at work
    dr_cuda_check(be, cudaGraphExecDestroy(g->exec), "graph");
    g->exec = NULL;
}

// Leaves g->exec NULL when a workspace turned out too small or the driver refused.
static void record(struct dr_backend *be, struct dr_graph *g, void (*steps)(void *), void *ctx) {
    struct dr_cuda *c = dr_cuda_of(be);
    std::lock_guard<std::recursive_mutex> hold(dr_cuda_still);
    const struct dr_err before = c->err;
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal);
    if (!e) {
        c->recording = true;
        c->unfit = false;
        steps(ctx);
        c->recording = false;
        e = cudaStreamEndCapture(c->stream, &graph);
    }
    if (!e && !c->unfit)
        e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    g->moves = c->moves;
    if (e) { // in a recording that is void every op fails: forgotten as well
        g->exec = NULL;
        g->refused++;
        c->err = before;
        (void)cudaGetLastError();
    }
}

void dr_cuda_replay(struct dr_backend *be, struct dr_graph **keep, void (*steps)(void *),
                    void *ctx) {
    struct dr_cuda *c = dr_cuda_of(be);
    if (!*keep)
        *keep = new (std::nothrow) dr_graph();
    struct dr_graph *g = *keep;
    if (!c->graphs || c->recording || !g || !g->ran) {
        steps(ctx);
        if (g)
            g->ran = true;
        return;
    }
    if (g->moves != c->moves)
        drop(be, g);
    if (!g->exec && g->refused < REFUSALS)
        record(be, g, steps, ctx);
    if (g->exec) {
        c->last_op = "a recorded graph";
        dr_cuda_check(be, cudaGraphLaunch(g->exec, c->stream), "graph");
    } else {
        steps(ctx);
    }
}

void dr_cuda_graph_free(struct dr_backend *be, struct dr_graph *g) {
    if (!g)
        return;
    drop(be, g);
    delete g;
}
