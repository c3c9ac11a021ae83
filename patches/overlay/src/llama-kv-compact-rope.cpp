// turning stored K rows from their old to their new position, with the settings of the layer

#include "llama-kv-compact.h"

#include "llama-cparams.h"
#include "llama-hparams.h"
#include "llama-impl.h"
#include "llama-model.h"

#include <cmath>

// hparams.has_rope() does not know the layers that these models leave without a rotation
bool llama_kv_compact_is_rotated(const llama_model & model, uint32_t il) {
    const auto & hparams = model.hparams;

    switch (model.arch) {
        case LLM_ARCH_BAICHUAN: return model.type == LLM_TYPE_7B; // the 13B model has ALiBi instead
        case LLM_ARCH_SMOLLM3: return (il + 1) % hparams.n_no_rope_layer_step != 0;
        case LLM_ARCH_COHERE2: return hparams.is_swa(il);
        case LLM_ARCH_EXAONE4: return hparams.is_swa(il) || hparams.swa_type == LLAMA_SWA_TYPE_NONE;
        default:               return hparams.rope_type != LLAMA_ROPE_TYPE_NONE && hparams.has_rope(il);
    }
}

// frequency factors that a model has loaded but does not pass to its own rotation
static ggml_tensor * rope_factors(const llama_model & model, const llama_cparams & cparams, uint32_t il) {
    switch (model.arch) {
        case LLM_ARCH_COGVLM:
        case LLM_ARCH_FALCON_H1:
        case LLM_ARCH_PANGU_EMBED: return nullptr;
        default:                   return model.get_rope_factors(cparams, il);
    }
}

ggml_tensor * llama_kv_compact_rope(
        const llama_model   & model,
        const llama_cparams & cparams,
               ggml_context * ctx,
                ggml_tensor * cur,
                ggml_tensor * delta,
                   uint32_t   il) {
    const auto & hparams = model.hparams;

    // YaRN scales the magnitude once, when K is first written; a later rotation must not scale it again.
    // ggml multiplies by 1 + 0.1*ln(1/freq_scale) whenever ext_factor != 0
    const float freq_scale  = model.get_rope_freq_scale(cparams, il);
    const float attn_factor = cparams.yarn_ext_factor != 0.0f ? 1.0f/(1.0f + 0.1f*logf(1.0f/freq_scale)) : 1.0f;

    return ggml_rope_ext_inplace(ctx, cur, delta, rope_factors(model, cparams, il),
            hparams.n_rot(il), hparams.rope_type, cparams.n_ctx_orig_yarn,
            model.get_rope_freq_base(cparams, il), freq_scale,
            cparams.yarn_ext_factor, attn_factor, cparams.yarn_beta_fast, cparams.yarn_beta_slow);
}

ggml_tensor * llama_kv_compact_rotate(
        const llama_model   & model,
        const llama_cparams & cparams,
               ggml_context * ctx,
                ggml_tensor * cur,
                ggml_tensor * delta,
                ggml_tensor * rot,
                   uint32_t   il) {
    const auto & hparams = model.hparams;

    const int64_t n_embd = cur->ne[0];
    const int64_t n      = cur->ne[1];
    const int64_t n_dim  = hparams.n_embd_head_k(il);

    cur = ggml_reshape_3d(ctx, cur, n_dim, n_embd/n_dim, n);

    // quantized K is stored in a Hadamard-rotated basis; the matrix is its own inverse
    if (rot) {
        cur = llama_mul_mat_hadamard(ctx, cur, rot);
    }

    cur = llama_kv_compact_rope(model, cparams, ctx, cur, delta, il);

    if (rot) {
        cur = llama_mul_mat_hadamard(ctx, cur, rot);
    }

    return ggml_reshape_2d(ctx, cur, n_embd, n);
}
