// llama_kv_cache: what cannot be compacted exactly is refused, with a sentence that says why

#include "llama-hparams.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

// architectures whose stored K is not "the last thing that happened is a plain rotation by the cell's position"
static bool arch_k_is_not_plain(llm_arch arch) {
    switch (arch) {
        // K is scaled by learned weights after the rotation
        case LLM_ARCH_HUNYUAN_MOE:
        case LLM_ARCH_HUNYUAN_DENSE:
        case LLM_ARCH_HUNYUAN_VL:
        case LLM_ARCH_MAINCODER:
        // rotation parameters or rotated layers differ from what the shared K-shift code assumes
        case LLM_ARCH_AFMOE:
        case LLM_ARCH_COHERE2MOE:
        case LLM_ARCH_EXAONE_MOE:
        case LLM_ARCH_GEMMA4:
        case LLM_ARCH_GEMMA4_ASSISTANT:
        case LLM_ARCH_GRANITE_SWA: // its window layers turn by the global base, the shift by a base of their own
        case LLM_ARCH_LAGUNA:
        case LLM_ARCH_LLAMA4:
        case LLM_ARCH_MAPLE:
        case LLM_ARCH_MELLUM:
        case LLM_ARCH_MUSE_GLIMMER:
        case LLM_ARCH_OLMO2:
        case LLM_ARCH_SMALLTHINKER:
        case LLM_ARCH_SPARK2_5:
            return true;
        default:
            return false;
    }
}

const char * llama_kv_cache::compact_reason() const {
    if (other) {
        return "its KV cache is shared with another context";
    }
    if (layers.empty()) {
        return "it has no layer with full attention, so there is nothing to compact";
    }
    if (hparams.is_mla() || hparams.n_lora_kv > 0) {
        return "it stores compressed keys (MLA), which cannot be re-rotated row by row";
    }
    if (hparams.n_pos_per_embd() > 1) {
        return "it uses multi-dimensional positions (M-RoPE), which cannot be renumbered";
    }
    if (has_cell_ext()) {
        return "its input depends on the exact previous tokens (n-gram embeddings), which compaction drops";
    }
    if (model.pos_embd) {
        return "its positions are learned embeddings that are baked into keys and values";
    }
    if (!get_can_shift() || arch_k_is_not_plain(model.arch)) {
        return "its keys are not a plain rotation by the position, so they cannot be re-rotated exactly";
    }
    if (swa_type == LLAMA_SWA_TYPE_CHUNKED) {
        return "it attends in fixed chunks of positions, whose borders would move";
    }
    for (const auto & layer : layers) {
        if (!layer.v) {
            return "it stores no separate values";
        }
        // rows are copied as 32-bit words
        if (layer.k->nb[1] % sizeof(float) != 0 || (!v_trans && layer.v->nb[1] % sizeof(float) != 0)) {
            return "its KV rows are not a multiple of 4 bytes with this KV type; use f16";
        }
    }
    return nullptr;
}

const char * llama_kv_cache::compact_head_reason() const {
    const int64_t n_head = n_head_kv();

    if (n_head == 0) {
        return "its layers have different numbers of KV heads";
    }
    for (const auto & layer : layers) {
        for (const auto * t : { layer.k, layer.v }) {
            const bool    is_k  = t == layer.k;
            const int64_t n_dim = is_k ? hparams.n_embd_head_k(layer.il) : hparams.n_embd_head_v(layer.il);

            if (t->ne[0] != n_dim*n_head) {
                return "its KV rows are more than one head after another";
            }
            if (v_trans && !is_k) {
                continue;
            }
            if (n_dim % ggml_blck_size(t->type) != 0 || ggml_row_size(t->type, n_dim) % sizeof(float) != 0) {
                return "a KV head is not a whole number of quantization blocks and of 4 bytes with this KV type; use f16";
            }
        }
    }
    return nullptr;
}
