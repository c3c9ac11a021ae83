#pragma once

#include <cstdint>

struct ggml_tensor;

class llm_graph_result;

typedef struct ggml_backend * ggml_backend_t;

// The losses that are computed of a ubatch whose tokens all are outputs, see llama_lacache_set_n_vocab().
struct llama_vocab_part {
    int32_t n_vocab = 0; // 0: logits as ever

    const ggml_tensor * output = nullptr; // the matrix that makes logits

    int64_t n_before = 0; // tokens of that graph that have a loss: all but the last one

    bool built = false; // the graph being built, or the newest one, has losses
};

// to be called where a graph multiplies with w; NULL if it has to do that itself
ggml_tensor * llama_vocab_part_build(llama_vocab_part & part, llm_graph_result * res, ggml_tensor * w, ggml_tensor * cur);

// to be called when a graph is complete: what is left of logits made so are those of the last token, and the losses
void llama_vocab_part_finish(llama_vocab_part & part, llm_graph_result * res);

// to be called where n_outputs rows of logits are copied to data; false if the caller has to do that itself
bool llama_vocab_part_get(ggml_backend_t backend, const ggml_tensor * logits, float * data, int64_t n_outputs, int64_t n_vocab);
