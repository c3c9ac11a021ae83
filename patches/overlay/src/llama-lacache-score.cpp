// the C API of include/llama-lacache.h: scores

#include "llama-lacache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-query.h"
#include "llama-lacache-parts.h"

#include <exception>
#include <functional>

// no exception leaves a C function, and what is refused is logged
static int32_t call(const char * name, llama_context * ctx, const std::function<llama_compact_status()> & impl) {
    auto status = LLAMA_COMPACT_ERR_CONTEXT;

    if (ctx) {
        try {
            status = impl();
        } catch (const std::exception & err) {
            LLAMA_LOG_ERROR("%s: %s\n", name, err.what());
            status = LLAMA_COMPACT_ERR_ALLOC;
        }
    }
    if (status != LLAMA_COMPACT_OK) {
        LLAMA_LOG_ERROR("%s: %s\n", name, llama_compact_status_str(status));
    }

    return status;
}

// true if an array of n elements is one of scores of n_cells cells
static bool is_scores(const llama_lacache_parts & parts, size_t n_cells, const float * scores, size_t n) {
    const size_t n_rows = parts.attn->get_layer_ids().size()*parts.attn->n_head_kv();

    return scores && n / n_rows == n_cells && n % n_rows == 0;
}

static llama_compact_status score_keys_impl(
        llama_context * ctx,
         llama_seq_id   seq_id,
              int32_t   first,
                float * scores,
               size_t   n_scores) {
    const auto parts = llama_lacache_get_parts(ctx->get_memory());

    if (parts.reason) {
        return LLAMA_COMPACT_ERR_UNSUPPORTED;
    }

    const int32_t n_cells = llama_lacache_n_cells(parts, seq_id);

    if (n_cells == 0) {
        return LLAMA_COMPACT_ERR_SEQ;
    }
    if (parts.attn->n_head_kv() == 0) {
        return LLAMA_COMPACT_ERR_HEADS;
    }
    if (first < 0 || first >= n_cells) {
        return LLAMA_COMPACT_ERR_RANGE;
    }
    if (!is_scores(parts, n_cells - first, scores, n_scores)) {
        return LLAMA_COMPACT_ERR_LENGTH;
    }

    // a shift or a stream copy that is still queued goes first: it does not change the table, only the rows
    ctx->memory_update(false);
    ctx->compact_begin();

    return parts.attn->score_keys(ctx, seq_id, first, scores) ? LLAMA_COMPACT_OK : LLAMA_COMPACT_ERR_ALLOC;
}

int32_t llama_memory_compact_n_head_kv(const llama_context * ctx) {
    const auto parts = llama_lacache_get_parts(ctx ? ctx->get_memory() : nullptr);

    return parts.reason ? 0 : parts.attn->n_head_kv();
}

const char * llama_memory_compact_head_reason(const llama_context * ctx) {
    if (!ctx) {
        return "there is no context";
    }

    const auto parts = llama_lacache_get_parts(ctx->get_memory());

    return parts.reason ? parts.reason : parts.attn->compact_head_reason();
}

int32_t llama_memory_seq_score_keys(
        llama_context * ctx,
         llama_seq_id   seq_id,
              int32_t   first,
                float * scores,
               size_t   n_scores) {
    return call(__func__, ctx, [&]() { return score_keys_impl(ctx, seq_id, first, scores, n_scores); });
}

//
// queries
//

static const char * query_reason(const llama_context * ctx, const llama_lacache_parts & parts) {
    if (parts.reason) {
        return parts.reason;
    }
    if (!ctx->get_causal_attn()) {
        return "its attention is not causal";
    }
    return parts.attn->query_reason();
}

static llama_compact_status set_n_query_impl(llama_context * ctx, int32_t n_query, bool spread) {
    const auto parts = llama_lacache_get_parts(ctx->get_memory());

    if (parts.reason) {
        return LLAMA_COMPACT_ERR_UNSUPPORTED;
    }
    if (n_query < 0 || n_query > (int64_t) ctx->n_ctx_seq() || (n_query > 0 && query_reason(ctx, parts))) {
        return LLAMA_COMPACT_ERR_QUERY;
    }

    ctx->compact_begin(); // nothing computes, and no stored graph knows the old buffers

    try {
        parts.attn->query_reset(n_query, spread);
        ctx->compact_begin(true); // builds the graph: now all is known of every layer
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        parts.attn->query_reset(0);
        ctx->compact_begin(true);
        return LLAMA_COMPACT_ERR_ALLOC;
    }

    if (n_query > 0 && query_reason(ctx, parts)) {
        parts.attn->query_reset(0);
        ctx->compact_begin(true);
        return LLAMA_COMPACT_ERR_QUERY;
    }

    return LLAMA_COMPACT_OK;
}

static int32_t get_n_query(const llama_lacache_parts & parts, llama_seq_id seq_id) {
    const auto * query = llama_lacache_n_cells(parts, seq_id) > 0 ? parts.attn->get_query() : nullptr;

    return query ? query->n : 0;
}

static llama_compact_status score_attention_impl(llama_context * ctx, llama_seq_id seq_id, float * scores, size_t n_scores) {
    const auto parts = llama_lacache_get_parts(ctx->get_memory());

    if (parts.reason) {
        return LLAMA_COMPACT_ERR_UNSUPPORTED;
    }
    if (llama_lacache_n_cells(parts, seq_id) == 0) {
        return LLAMA_COMPACT_ERR_SEQ;
    }
    if (query_reason(ctx, parts) || get_n_query(parts, seq_id) == 0) {
        return LLAMA_COMPACT_ERR_QUERY;
    }
    if (!is_scores(parts, llama_lacache_n_cells(parts, seq_id), scores, n_scores)) {
        return LLAMA_COMPACT_ERR_LENGTH;
    }

    ctx->compact_begin();

    return parts.attn->score_attention(ctx, seq_id, scores) ? LLAMA_COMPACT_OK : LLAMA_COMPACT_ERR_ALLOC;
}

const char * llama_memory_query_reason(const llama_context * ctx) {
    return ctx ? query_reason(ctx, llama_lacache_get_parts(ctx->get_memory())) : "there is no context";
}

int32_t llama_memory_set_n_query(llama_context * ctx, int32_t n_query, bool spread) {
    return call(__func__, ctx, [&]() { return set_n_query_impl(ctx, n_query, spread); });
}

int32_t llama_memory_n_query(const llama_context * ctx, llama_seq_id seq_id) {
    const auto parts = llama_lacache_get_parts(ctx ? ctx->get_memory() : nullptr);

    return get_n_query(parts, seq_id);
}

int32_t llama_memory_seq_score_attention(llama_context * ctx, llama_seq_id seq_id, float * scores, size_t n_scores) {
    return call(__func__, ctx, [&]() { return score_attention_impl(ctx, seq_id, scores, n_scores); });
}
