// Products of short rows of 16 bits with many columns: keys times queries, beside flash attention

#pragma once

#include "ggml-cpu-impl.h"

#ifdef __cplusplus
extern "C" {
#endif

// dst = dst->src[0] (F16, short rows) times dst->src[1] (F32), the part of this thread.
//
// Every element gets the bits that tinyBLAS (llamafile/sgemm.cpp) would give it: the same operations in the same order.
// There a vector holds neighbours of a row, and adding them up at its end is most of the work of a row of 64; here it holds
// the same element of 8 or 16 rows, so nothing is added up within a vector. Returns false, with nothing written, for what is
// not implemented (see mul-mat-short.cpp).
bool ggml_mul_mat_short(const struct ggml_compute_params * params, struct ggml_tensor * dst);

#ifdef __cplusplus
}
#endif
