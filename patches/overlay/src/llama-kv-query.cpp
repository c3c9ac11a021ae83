#include "llama-kv-query.h"

#include "llama-graph.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <map>
#include <stdexcept>

void llama_kv_query::add(const llama_ubatch & ubatch, std::vector<int64_t> & slots) {
    const int64_t n_rows = slots.size();
    const int64_t apart  = step(ubatch.n_tokens, n_rows);

    if (n_rows == n_query) {
        forget(); // all slots are written
    }
    n_before = n_seen;

    for (int64_t i = 0; i < n_rows; ++i) {
        last = next();

        slots[i]    = last;
        pos[last]   = ubatch.pos[ubatch.n_tokens - 1 - (n_rows - 1 - i)*apart];
        index[last] = n_seen++;
    }
}

int32_t llama_kv_query::next() {
    if (n < n_query) {
        return n++;
    }
    if (!spread) {
        return (last + 1) % n_query;
    }
    if (index[last] < n_before && index[last] % stride != 0) {
        return last; // was there as the newest one only
    }

    // the oldest that is off the stride, else off a wider one; the oldest of all is on every stride
    for (;; stride *= 2) {
        int32_t oldest = -1;
        int32_t res    = -1;

        for (int32_t i = 0; i < n_query; ++i) {
            if (index[i] >= n_before) {
                continue;
            }
            if (oldest < 0 || index[i] < index[oldest]) {
                oldest = i;
            }
            if (index[i] % stride != 0 && (res < 0 || index[i] < index[res])) {
                res = i;
            }
        }
        if (res >= 0 || stride > n_seen) {
            return res >= 0 ? res : oldest;
        }
    }
}

llama_kv_query::layer * llama_kv_query::find(uint32_t il) {
    const auto it = std::find_if(layers.begin(), layers.end(), [&](const layer & l) { return l.il == il; });

    return it == layers.end() ? nullptr : &*it;
}

//
// in the decode graph
//

class llm_graph_input_kv_query : public llm_graph_input_i {
public:
    llm_graph_input_kv_query(llama_kv_query * query) : query(query) {}
    virtual ~llm_graph_input_kv_query() = default;

    void set_input(const llama_ubatch * ubatch) override {
        std::vector<int64_t> data(slots->ne[0]);

        query->add(*ubatch, data);

        if (slots->buffer) {
            ggml_backend_tensor_set(slots, data.data(), 0, ggml_nbytes(slots));
        }
    }

    bool can_reuse(const llm_graph_params & params) override {
        return slots->ne[0] == std::min<int64_t>(params.ubatch.n_tokens, query->n_query);
    }

    llama_kv_query * query;

    ggml_tensor * slots = nullptr; // I64 [min(n_tokens, n_query)]
};

static ggml_tensor * get_slots(llama_kv_query * query, llm_graph_result * res, int64_t n) {
    for (const auto & input : res->inputs) {
        if (const auto * inp = dynamic_cast<const llm_graph_input_kv_query *>(input.get())) {
            return inp->slots;
        }
    }

    auto inp = std::make_unique<llm_graph_input_kv_query>(query);

    inp->slots = ggml_new_tensor_1d(res->get_ctx(), GGML_TYPE_I64, n);
    ggml_set_input(inp->slots);

    return static_cast<llm_graph_input_kv_query *>(res->add_input(std::move(inp)))->slots;
}

void llama_kv_query_build(
        llama_kv_query   * query,
        llm_graph_result * res,
             ggml_tensor * q,
             ggml_tensor * kq_b,
             ggml_tensor * sinks,
                   float   kq_scale,
                     int   il) {
    auto * layer = query ? query->find(il) : nullptr;

    if (!layer) {
        return; // off, or a layer that attends to the keys of another one
    }

    const int64_t n_embd = q->ne[0]*q->ne[1];
    const int64_t n      = std::min<int64_t>(q->ne[2], query->n_query);

    layer->built = true;
    layer->scale = kq_scale;
    layer->sinks = sinks;
    layer->other = kq_b || (sinks && sinks->op != GGML_OP_NONE) || n_embd != layer->q->ne[0] || q->ne[3] != 1;

    if (layer->other) {
        return;
    }

    auto * ctx = res->get_ctx();

    if (q->type != GGML_TYPE_F32) {
        q = ggml_cast(ctx, q, GGML_TYPE_F32);
    }

    // up to the ubatch's last one
    const int64_t step  = query->step(q->ne[2], n);
    const int64_t first = q->ne[2] - 1 - (n - 1)*step;

    ggml_tensor * cur = ggml_view_3d(ctx, q, q->ne[0], q->ne[1], n, q->nb[1], step*q->nb[2], first*q->nb[2]);

    if (cur->nb[0] != sizeof(float) || cur->nb[1] != cur->ne[0]*sizeof(float)) {
        cur = ggml_cont(ctx, cur);
    }
    cur = ggml_view_2d(ctx, cur, n_embd, n, cur->nb[2], 0);

    ggml_build_forward_expand(res->get_gf(), ggml_set_rows(ctx, layer->q, cur, get_slots(query, res, n)));
}

//
// llama_kv_cache
//

const char * llama_kv_cache::query_reason() const {
    if (model.arch == LLM_ARCH_GROK || model.arch == LLM_ARCH_T5) {
        return "its attention is more than a softmax over scaled products";
    }
    if (n_seq_max > 1) {
        return "queries are recorded in contexts for one sequence only";
    }
    if (n_head_kv() == 0) {
        return "its layers have different numbers of KV heads";
    }
    if (query) {
        for (const auto & layer : query->layers) {
            if (!layer.built || layer.other) {
                return "its attention is computed in a way whose queries cannot be recorded";
            }
        }
    }
    return nullptr;
}

llama_kv_query * llama_kv_cache::get_query() const {
    return query.get();
}

llama_kv_query * llama_kv_cache_context::get_query() const {
    return kv->get_query();
}

void llama_kv_cache::query_forget() {
    if (query) {
        query->forget();
    }
}

void llama_kv_cache::query_reset(int32_t n_query, bool spread) {
    query.reset();

    if (n_query == 0) {
        return;
    }

    auto res = std::make_shared<llama_kv_query>();

    res->n_query = n_query;
    res->spread  = spread;
    res->pos  .resize(n_query);
    res->index.resize(n_query);

    std::map<ggml_backend_buffer_type_t, ggml_context *> ctxs;

    for (const auto & layer : layers) {
        auto * buft = ggml_backend_buffer_get_type(layer.k->buffer);

        if (!ctxs.count(buft)) {
            ggml_init_params params = {
                /*.mem_size   =*/ layers.size()*ggml_tensor_overhead(),
                /*.mem_buffer =*/ NULL,
                /*.no_alloc   =*/ true,
            };

            ctxs[buft] = ggml_init(params);
            if (!ctxs[buft]) {
                throw std::runtime_error("failed to create the ggml context for queries");
            }
            res->ctxs_bufs.emplace_back(ctxs[buft], nullptr);
        }

        llama_kv_query::layer cur;

        cur.il = layer.il;
        cur.q  = ggml_new_tensor_2d(ctxs[buft], GGML_TYPE_F32, hparams.n_embd_head_k(layer.il)*hparams.n_head(layer.il), n_query);

        ggml_format_name(cur.q, "cache_q_l%d", (int) layer.il);

        res->layers.push_back(cur);
    }

    for (auto & ctx_buf : res->ctxs_bufs) {
        for (const auto & [buft, ctx] : ctxs) {
            if (ctx == ctx_buf.first.get()) {
                ctx_buf.second.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx, buft));
            }
        }
        if (!ctx_buf.second) {
            throw std::runtime_error("failed to allocate the buffer for queries");
        }
        ggml_backend_buffer_clear(ctx_buf.second.get(), 0);
    }

    query = std::move(res);
}
