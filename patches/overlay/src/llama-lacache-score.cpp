// the C API of include/llama-lacache.h: scores

#include "llama-lacache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-lacache-parts.h"

#include <exception>

// true if an array of n elements is one of scores
static bool is_scores(const llama_lacache_parts & parts, llama_seq_id seq_id, const float * scores, size_t n) {
    const size_t n_rows  = parts.attn->get_layer_ids().size()*parts.attn->n_head_kv();
    const size_t n_cells = llama_lacache_n_cells(parts, seq_id);

    return scores && n / n_rows == n_cells && n % n_rows == 0;
}

static llama_compact_status score_keys_impl(llama_context * ctx, llama_seq_id seq_id, float * scores, size_t n_scores) {
    const auto parts = llama_lacache_get_parts(ctx->get_memory());

    if (parts.reason) {
        return LLAMA_COMPACT_ERR_UNSUPPORTED;
    }
    if (llama_lacache_n_cells(parts, seq_id) == 0) {
        return LLAMA_COMPACT_ERR_SEQ;
    }
    if (parts.attn->n_head_kv() == 0) {
        return LLAMA_COMPACT_ERR_HEADS;
    }
    if (!is_scores(parts, seq_id, scores, n_scores)) {
        return LLAMA_COMPACT_ERR_LENGTH;
    }

    // a shift or a stream copy that is still queued goes first: it does not change the table, only the rows
    ctx->memory_update(false);
    ctx->compact_begin();

    return parts.attn->score_keys(ctx, seq_id, scores) ? LLAMA_COMPACT_OK : LLAMA_COMPACT_ERR_ALLOC;
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

int32_t llama_memory_seq_score_keys(llama_context * ctx, llama_seq_id seq_id, float * scores, size_t n_scores) {
    if (!ctx) {
        return LLAMA_COMPACT_ERR_CONTEXT;
    }

    auto status = LLAMA_COMPACT_OK;

    try {
        status = score_keys_impl(ctx, seq_id, scores, n_scores);
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        status = LLAMA_COMPACT_ERR_ALLOC;
    }
    if (status != LLAMA_COMPACT_OK) {
        LLAMA_LOG_ERROR("%s: seq_id = %d, n_scores = %zu: %s\n", __func__,
                seq_id, n_scores, llama_compact_status_str(status));
    }

    return status;
}

// not there yet

const char * llama_memory_query_reason(const llama_context *) {
    return "queries are not recorded yet";
}

int32_t llama_memory_set_n_query(llama_context * ctx, int32_t) {
    return ctx ? LLAMA_COMPACT_ERR_QUERY : LLAMA_COMPACT_ERR_CONTEXT;
}

int32_t llama_memory_n_query(const llama_context *, llama_seq_id) {
    return 0;
}

int32_t llama_memory_seq_score_attention(llama_context * ctx, llama_seq_id, float *, size_t) {
    return ctx ? LLAMA_COMPACT_ERR_QUERY : LLAMA_COMPACT_ERR_CONTEXT;
}
