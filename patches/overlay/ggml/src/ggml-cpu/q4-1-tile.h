// Products of Q4_1 weights with many columns at once

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// dst[i1*nb_dst + i0*sizeof(float)] = row i0 of x (Q4_1) times column i1 of y (Q8_1), for i0 in [i0_start, i0_end) and
// i1 in [i1_start, i1_end); both have nb blocks of 32 elements, nb_x, nb_y and nb_dst are strides in bytes.
//
// Every element gets the bits that ggml_vec_dot_q4_1_q8_1 would give it: the same operations in the same order. What is
// saved is the unpacking of a weight, done once per tile of 16 columns and not once per column. Returns false, with
// nothing written, where that does not pay (few columns) or is not implemented (no AVX2): take the row-wise product.
bool ggml_mul_mat_q4_1_tile(
        int64_t nb,
        const void * x, size_t nb_x, int64_t i0_start, int64_t i0_end,
        const void * y, size_t nb_y, int64_t i1_start, int64_t i1_end,
        void * dst, size_t nb_dst);

#ifdef __cplusplus
}
#endif
