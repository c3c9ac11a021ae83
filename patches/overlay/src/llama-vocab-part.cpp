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
    auto * gf  = res->get_gf();

    ggml_tensor * before = ggml_view_2d(ctx, cur, n_embd, n_before, cur->nb[1], 0);
    ggml_tensor * last   = ggml_view_2d(ctx, cur, n_embd, 1, cur->nb[1], n_before*cur->nb[1]);

    ggml_tensor * w_part = ggml_view_2d(ctx, w, n_embd, part.n_vocab, w->nb[1], 0);
    ggml_tensor * next   = ggml_get_rows(ctx, w, ggml_view_1d(ctx, tokens, n_before, tokens->nb[0])); // of every token the one behind it

    // rows are as long as the vocabulary; all begin as the last one, and what is known of the others is written over it
    ggml_tensor * out = ggml_repeat_4d(ctx, ggml_mul_mat(ctx, w, last), w->ne[1], n_before + 1, 1, 1);

    const auto put = [&](ggml_tensor * piece, int64_t i0) {
        ggml_tensor * place = ggml_view_2d(ctx, out, piece->ne[0], piece->ne[1], out->nb[1], i0*out->nb[0]);
        ggml_build_forward_expand(gf, ggml_cpy(ctx, piece, place));
    };

    put(ggml_mul_mat(ctx, w_part, before), 0);
    put(ggml_sum_rows(ctx, ggml_mul(ctx, next, before)), part.n_vocab);

    return out;
}

void llama_vocab_part_finish(llama_vocab_part & part, llm_graph_result * res) {
    ggml_tensor * logits = res->t_logits;

    if (!part.built || !logits || ggml_nrows(logits) < 2) {
        return;
    }

    auto * ctx = res->get_ctx();

    // what the model did to its logits behind the product (a scale, a cap) is in them by now
    const int64_t n_vocab  = logits->ne[0];
    const int64_t n_before = logits->ne[1] - 1;

    ggml_tensor * frequent = ggml_view_2d(ctx, logits, part.n_vocab, n_before, logits->nb[1], 0);
    ggml_tensor * own      = ggml_view_2d(ctx, logits, 1, n_before, logits->nb[1], part.n_vocab*logits->nb[0]);
    ggml_tensor * last     = ggml_view_1d(ctx, logits, n_vocab, n_before*logits->nb[1]);

    ggml_tensor * above = ggml_clamp(ctx, ggml_sub(ctx, frequent, own), -INFINITY, MAX_LOSS);
    ggml_tensor * loss  = ggml_log(ctx, ggml_sum_rows(ctx, ggml_exp(ctx, above)));

    res->t_logits = ggml_concat(ctx, last, ggml_reshape_1d(ctx, loss, n_before), 0);

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
        part = { n_vocab, output, false };
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
