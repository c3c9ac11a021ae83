#pragma once

// A graph beside the decode graph: computed on the context's scheduler between two batches.

#include "ggml.h"

#include <functional>

struct llama_context;

// new input tensor
ggml_tensor * llama_kv_side_input(ggml_context * ctx, ggml_type type, int64_t ne0, int64_t ne1 = 1);

// fill an input; one that no node reads has no buffer
void llama_kv_side_set(ggml_tensor * t, const void * data);

// Compute one graph and wait for it. build() may be called twice and must build the same graph each time; set() fills
// the inputs of the last one built. started, if not NULL, becomes true as soon as something may have been computed.
// Afterwards the tensors built are there until the next graph. false: no memory for the graph, or the backend failed
bool llama_kv_side_compute(
        llama_context * lctx,
        const std::function<void(ggml_context * ctx, ggml_cgraph * gf)> & build,
        const std::function<void()> & set,
        bool * started = nullptr);

// sum over dimension 1 of F32 [ne0, n, ne2], in pairs: [ne0, 1, ne2]
ggml_tensor * llama_kv_side_sum(ggml_context * ctx, ggml_tensor * t);
