#pragma once

#include <cstdint>

struct ggml_tensor;

class llm_graph_result;

// The logits that are computed of a ubatch whose tokens all are outputs, see llama_lacache_set_n_vocab().
struct llama_vocab_part {
    int32_t n_vocab = 0; // 0: all

    const ggml_tensor * output = nullptr; // the matrix that makes logits

    bool built = false; // the newest graph made its logits with llama_vocab_part_build()
};

// to be called where a graph multiplies with w; NULL if it has to do that itself
ggml_tensor * llama_vocab_part_build(llama_vocab_part & part, llm_graph_result * res, ggml_tensor * w, ggml_tensor * cur);
