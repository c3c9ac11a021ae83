// The fast Walsh-Hadamard transform of one row in registers
//
// llama.cpp rotates quantized K with it. Its own loops do the first three passes number by number; here they are
// shuffles. The same sums and differences of the same numbers, so every bit is the same.

#pragma once

#include <cstdint>

#if defined(__AVX2__)

#include <immintrin.h>

template <int N> // vectors of the row
static inline void ggml_fwht_vectors(float * x) {
    const __m256 minus = _mm256_set1_ps(-0.0f);
    const __m256 odd   = _mm256_blend_ps(_mm256_setzero_ps(), minus, 0xaa); // signs of the second of every 2, 4, 8 numbers
    const __m256 high  = _mm256_blend_ps(_mm256_setzero_ps(), minus, 0xcc);
    const __m256 upper = _mm256_blend_ps(_mm256_setzero_ps(), minus, 0xf0);

    __m256 v[N];
    for (int i = 0; i < N; ++i) {
        v[i] = _mm256_loadu_ps(x + 8*i);
        v[i] = _mm256_add_ps(_mm256_permute_ps(v[i], 0xb1),            _mm256_xor_ps(v[i], odd));
        v[i] = _mm256_add_ps(_mm256_permute_ps(v[i], 0x4e),            _mm256_xor_ps(v[i], high));
        v[i] = _mm256_add_ps(_mm256_permute2f128_ps(v[i], v[i], 0x01), _mm256_xor_ps(v[i], upper));
    }
    for (int len = 1; len < N; len *= 2) {
        for (int i = 0; i < N; ++i) {
            if (!(i & len)) {
                const __m256 u = v[i];
                const __m256 w = v[i + len];
                v[i]       = _mm256_add_ps(u, w);
                v[i + len] = _mm256_sub_ps(u, w);
            }
        }
    }
    for (int i = 0; i < N; ++i) {
        _mm256_storeu_ps(x + 8*i, v[i]);
    }
}

// false, with nothing done, for a length that is not implemented
static inline bool ggml_fwht_row(float * x, int64_t n) {
    switch (n) {
        case 32:  ggml_fwht_vectors<4>(x);  return true;
        case 64:  ggml_fwht_vectors<8>(x);  return true;
        case 128: ggml_fwht_vectors<16>(x); return true;
        case 256: ggml_fwht_vectors<32>(x); return true;
        default:  return false;
    }
}

#else

static inline bool ggml_fwht_row(float * x, int64_t n) {
    (void) x, (void) n;
    return false;
}

#endif
