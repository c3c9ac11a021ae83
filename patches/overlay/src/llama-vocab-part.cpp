#include "llama-vocab-part.h"

#include "llama-lacache.h"

#include "llama-context.h"
#include "llama-graph.h"
#include "llama-impl.h"
#include "llama-model.h"
#include "llama-vocab.h"

#include "ggml-backend.h"

#include <cmath>
#include <exception>
#include <memory>

// e^70 times as many tokens as any vocabulary has is still a float
static const float MAX_LOSS = 70.0f;

ggml_tensor * llama_vocab_part_build(llama_vocab_part & part, llm_graph_result * res, ggml_tensor * w, ggml_tensor * cur) {
    if (part.n_vocab == 0 || w != part.output) {
        return nullptr;
    }

    ggml_tensor * tokens = res->get_inp_tokens();

    const int64_t n_embd   = cur->ne[0];
    const int64_t n_before = cur->ne[1] - 1; // outputs before the last one

    part.built = n_before > 0 && tokens && tokens->ne[0] == cur->ne[1];

    if (!part.built) {
        return nullptr;
    }

    auto * ctx = res->get_ctx();

    ggml_tensor * before = ggml_view_2d(ctx, cur, n_embd, n_before, cur->nb[1], 0);
    ggml_tensor * last   = ggml_view_2d(ctx, cur, n_embd, 1, cur->nb[1], n_before*cur->nb[1]);

    ggml_tensor * w_part = ggml_view_2d(ctx, w, n_embd, part.n_vocab, w->nb[1], 0);
    ggml_tensor * next   = ggml_get_rows(ctx, w, ggml_view_1d(ctx, tokens, n_before, tokens->nb[0])); // of every token the one behind it

    ggml_tensor * frequent = ggml_mul_mat(ctx, w_part, before);
    ggml_tensor * own      = ggml_sum_rows(ctx, ggml_mul(ctx, next, before));

    // in one row, for what models do to logits next (a scale, a cap) they do to every number alike
    ggml_tensor * out = ggml_mul_mat(ctx, w, last);
    out = ggml_concat(ctx, out, ggml_reshape_2d(ctx, frequent, part.n_vocab*n_before, 1), 0);
    out = ggml_concat(ctx, out, ggml_reshape_2d(ctx, own, n_before, 1), 0);

    part.n_before = n_before;

    return out;
}

void llama_vocab_part_finish(llama_vocab_part & part, llm_graph_result * res) {
    ggml_tensor * logits = res->t_logits;

    if (!part.built) {
        return;
    }

    auto * ctx = res->get_ctx();

    const int64_t n_before = part.n_before;
    const int64_t n_vocab  = part.output->ne[1];

    // a model that makes something else of its logits can have them only as ever
    part.built = logits && ggml_nelements(logits) == logits->ne[0] && logits->ne[0] == n_vocab + n_before*(part.n_vocab + 1);

    if (!part.built) {
        return;
    }

    size_t offset = 0;

    const auto take = [&](int64_t ne0, int64_t ne1) {
        ggml_tensor * res = ggml_view_2d(ctx, logits, ne0, ne1, ne0*logits->nb[0], offset);
        offset += ne0*ne1*logits->nb[0];
        return res;
    };

    ggml_tensor * last     = take(n_vocab, 1);
    ggml_tensor * frequent = take(part.n_vocab, n_before);
    ggml_tensor * own      = take(1, n_before);

    ggml_tensor * above = ggml_clamp(ctx, ggml_sub(ctx, frequent, own), -INFINITY, MAX_LOSS);
    ggml_tensor * loss  = ggml_log(ctx, ggml_sum_rows(ctx, ggml_exp(ctx, above)));

    res->t_logits = ggml_concat(ctx, last, ggml_reshape_2d(ctx, loss, n_before, 1), 0);

    ggml_build_forward_expand(res->get_gf(), res->t_logits);
}

bool llama_vocab_part_get(ggml_backend_t backend, const ggml_tensor * logits, float * data, int64_t n_outputs, int64_t n_vocab) {
    const int64_t n_before = n_outputs - 1;

    if (n_before < 1 || ggml_nelements(logits) != n_vocab + n_before) {
        return false;
    }

    ggml_backend_tensor_get_async(backend, logits, data, n_vocab*sizeof(float), n_before*sizeof(float));
    ggml_backend_tensor_get_async(backend, logits, data + n_before*n_vocab, 0, n_vocab*sizeof(float));

    return true;
}

//
// the C API of include/llama-lacache.h
//

// Views of a part of the rows are what weights have that lie as they came, in one piece. Whether their device gives rows of
// their type by number, only it knows.
static bool is_supported(ggml_tensor * output) {
    if (!output || !output->buffer || output->extra) {
        return false;
    }
    if (ggml_backend_buffer_is_host(output->buffer)) {
        return true;
    }

    auto * dev = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(output->buffer));

    std::unique_ptr<ggml_context, decltype(&ggml_free)> ctx(ggml_init({ 4*ggml_tensor_overhead(), nullptr, true }), ggml_free);

    return dev && ctx && ggml_backend_dev_supports_op(dev,
        ggml_get_rows(ctx.get(), output, ggml_new_tensor_1d(ctx.get(), GGML_TYPE_I32, 1)));
}

static llama_compact_status set_n_vocab_impl(llama_context * ctx, int32_t n_vocab) {
    auto & part = *ctx->get_cparams().vocab_part;

    auto * output = ctx->get_model().output;

    if (n_vocab < 0 || n_vocab >= (int32_t) ctx->get_model().vocab.n_tokens()) {
        return LLAMA_COMPACT_ERR_RANGE;
    }
    if (n_vocab > 0 && (!is_supported(output) || ctx->get_model().output_b)) { // a bias would be that of another token
        return LLAMA_COMPACT_ERR_UNSUPPORTED;
    }

    ctx->compact_begin(); // nothing computes

    auto status = LLAMA_COMPACT_OK;

    try {
        part = { n_vocab, output, 0, false };
        ctx->compact_begin(true); // builds the graph of a full ubatch

        if (n_vocab > 0 && !part.built) {
            status = LLAMA_COMPACT_ERR_UNSUPPORTED;
        }
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        status = LLAMA_COMPACT_ERR_ALLOC;
    }

    if (status != LLAMA_COMPACT_OK) {
        part = {};
        ctx->compact_begin(true);
    }

    return status;
}

int32_t llama_lacache_set_n_vocab(llama_context * ctx, int32_t n_vocab) {
    if (!ctx) {
        return LLAMA_COMPACT_ERR_CONTEXT;
    }

    try {
        return set_n_vocab_impl(ctx, n_vocab);
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        return LLAMA_COMPACT_ERR_ALLOC;
    }
}
