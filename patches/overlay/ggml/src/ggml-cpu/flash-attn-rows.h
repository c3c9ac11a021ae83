// Attention of a few queries at a time: decoding, and reading in small ubatches

#pragma once

#include "ggml-cpu-impl.h"

// Rows [ir0, ir1) of the queries (row = (sequence*n_head + head)*n_tokens + token) attend to the cells [ic0, ic1). Without
// partials the result goes to dst, with them M, S and the weighted sum of values go to partials + row*stride.
//
// Every number gets the bits that ggml_compute_forward_flash_attn_ext_f16_one_chunk would give it: the same operations in
// the same order. What is saved is the unpacking of K and V, done once for up to four rows that look at the same KV head
// and not once for each. Returns false, with nothing written, for what is not implemented (see flash-attn-rows.cpp).
bool ggml_flash_attn_rows(
        const ggml_compute_params * params, ggml_tensor * dst,
        int64_t ir0, int64_t ir1, int64_t ic0, int64_t ic1, float * partials, int64_t stride);
