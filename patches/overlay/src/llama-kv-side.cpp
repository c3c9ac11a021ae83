#include "llama-kv-side.h"

#include "llama-context.h"
#include "llama-impl.h"

#include <vector>

ggml_tensor * llama_kv_side_input(ggml_context * ctx, ggml_type type, int64_t ne0, int64_t ne1) {
    ggml_tensor * res = ggml_new_tensor_2d(ctx, type, ne0, ne1);
    ggml_set_input(res);
    return res;
}

void llama_kv_side_set(ggml_tensor * t, const void * data) {
    if (t && t->buffer) {
        ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
    }
}

bool llama_kv_side_compute(
        llama_context * lctx,
        const std::function<void(ggml_context * ctx, ggml_cgraph * gf)> & build,
        const std::function<void()> & set,
        bool * started) {
    auto * sched = lctx->get_sched();
    auto * res   = lctx->get_gf_res_reserve();

    const auto rebuild = [&]() {
        ggml_backend_sched_reset(sched);
        res->reset();
        build(res->get_ctx(), res->get_gf());
        return res->get_gf();
    };

    auto * gf = rebuild();

    if (ggml_graph_n_nodes(gf) == 0) {
        return true;
    }

    // plan the buffers anew: ggml keeps the plan of the previous graph when the number of nodes and leafs is the
    // same, and does not look whether the leafs come in the same order
    bool ok = ggml_backend_sched_reserve(sched, gf);

    if (ok) {
        if (ggml_backend_sched_get_n_backends(sched) > 1) {
            gf = rebuild(); // reserving has split the first one
        }
        ok = ggml_backend_sched_alloc_graph(sched, gf);
    }
    if (!ok) {
        LLAMA_LOG_ERROR("%s: failed to allocate the compute graph\n", __func__);
        return false;
    }

    set();

    if (started) {
        *started = true;
    }
    if (lctx->graph_compute(gf, true) != GGML_STATUS_SUCCESS) {
        LLAMA_LOG_ERROR("%s: failed to compute the graph\n", __func__);
        return false;
    }

    lctx->synchronize();

    return true;
}

ggml_tensor * llama_kv_side_sum(ggml_context * ctx, ggml_tensor * t) {
    std::vector<ggml_tensor *> odd;

    const auto part = [&](int64_t i0, int64_t n) {
        return ggml_view_3d(ctx, t, t->ne[0], n, t->ne[2], t->nb[1], t->nb[2], i0*t->nb[1]);
    };

    while (t->ne[1] > 1) {
        const int64_t n    = t->ne[1];
        const int64_t half = n/2;

        if (n % 2 == 1) {
            odd.push_back(part(n - 1, 1));
        }
        t = ggml_add(ctx, part(0, half), part(half, half));
    }
    for (auto * other : odd) {
        t = ggml_add(ctx, t, other);
    }

    return t;
}
