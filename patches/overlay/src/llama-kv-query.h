#pragma once

// The last queries of every layer of a llama_kv_cache, beside its keys.
//
// Each layer has n_query rows. The decode graph writes queries of a ubatch into them, as they meet the stored keys: rotated,
// scaled, in the basis of a quantized K. Which rows are written is an input, so a graph can be reused. They are a ring of
// the newest queries or, as neighbours look at much the same cells, spread over more tokens than there are rows.

#include "ggml-cpp.h"

#include "llama.h"

#include <cstdint>
#include <vector>

struct ggml_context;
struct ggml_tensor;
struct llama_ubatch;

class llm_graph_result;

struct llama_kv_query {
    struct layer {
        uint32_t il = 0; // in the model

        ggml_tensor * q = nullptr; // F32 [head_dim*n_head, n_query]

        // what the attention of the layer does beside softmax(scale*q.k + mask), known when its graph is built
        bool built = false;
        bool other = false; // something that scores cannot repeat

        float scale = 0.0f;

        ggml_tensor * sinks = nullptr;
    };

    int32_t n_query = 0;

    bool spread = false; // over all tokens since they were forgotten, else the newest

    std::vector<layer> layers; // as in the cache

    // slots [0, n) hold queries, `last` the newest one
    int32_t n    = 0;
    int32_t last = 0;

    // spread over single tokens: every stride-th of the n_seen tokens is kept
    int64_t n_seen   = 0;
    int64_t n_before = 0; // of them before this ubatch, which writes no slot twice
    int64_t stride   = 1;

    std::vector<llama_pos> pos;   // [n_query] position of the query in each slot
    std::vector<int64_t>   index; // [n_query] and the number of its token, counted since they were forgotten

    std::vector<std::pair<ggml_context_ptr, ggml_backend_buffer_ptr>> ctxs_bufs;

    void forget() { n = last = 0; n_seen = n_before = 0; stride = 1; }

    // how far apart n_rows tokens of a ubatch are that are recorded
    int64_t step(int64_t n_tokens, int64_t n_rows) const { return spread ? n_tokens/n_rows : 1; }

    // slots for tokens of a ubatch, as many as there are elements; they count as recorded
    void add(const llama_ubatch & ubatch, std::vector<int64_t> & slots);

    // the slot for the next token: a free one, or whose query is dispensable
    int32_t next();

    layer * find(uint32_t il);
};

// to be called where a graph computes attention with queries q, F32 [head_dim, n_head, n_tokens]; query may be NULL
void llama_kv_query_build(
        llama_kv_query   * query,
        llm_graph_result * res,
             ggml_tensor * q,
             ggml_tensor * kq_b,
             ggml_tensor * sinks,
                   float   kq_scale,
                     int   il);
