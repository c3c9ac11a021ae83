// See mul-mat-short.h for what this promises.

#include "mul-mat-short.h"

#include "simd-mappings.h"

#include <algorithm>
#include <cstring>

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)

namespace {

using vec = GGML_F32_VEC;

constexpr int N_ROWS  = GGML_F32_EPR; // of a tile, and numbers that tinyBLAS has in a vector
constexpr int N_COLS  = 6;   // columns at a time: with what lane_sums() keeps of each, 32 registers are full
constexpr int N_DIM   = 256; // of a row, at most
constexpr int N_BLOCK = 66;  // columns that go through a tile: 64 in whole groups
constexpr int N_FEW   = 8;   // fewer columns are not worth turning a tile

static_assert(N_BLOCK % N_COLS == 0, "a block is whole groups");

// rounded to 16 bits, as upstream packs them
void round_columns(float * y, const char * x, size_t nb, int n, int n_cols) {
    for (int c = 0; c < n_cols; ++c) {
        const float * col = (const float *) (x + c*nb);
        for (int d = 0; d < n; d += 8) {
            _mm256_store_ps(y + c*n + d, _mm256_cvtph_ps(_mm256_cvtps_ph(_mm256_loadu_ps(col + d), 0)));
        }
    }
}

// y[d][row] = x[row][d]
void turn_tile(float * y, const char * x, size_t nb, int n) {
    for (int r = 0; r < N_ROWS; r += 8) {
        for (int d = 0; d < n; d += 8) {
            __m128i cur[8];
            for (int j = 0; j < 8; ++j) {
                cur[j] = _mm_loadu_si128((const __m128i *) (x + (r + j)*nb + d*sizeof(ggml_fp16_t)));
            }
            // 64 numbers, dealt like cards three times: each moves one bit from the number of a row to that of a column
            for (int pass = 0; pass < 3; ++pass) {
                __m128i next[8];
                for (int j = 0; j < 4; ++j) {
                    next[2*j]     = _mm_unpacklo_epi16(cur[j], cur[j + 4]);
                    next[2*j + 1] = _mm_unpackhi_epi16(cur[j], cur[j + 4]);
                }
                for (int j = 0; j < 8; ++j) {
                    cur[j] = next[j];
                }
            }
            for (int j = 0; j < 8; ++j) {
                _mm256_store_ps(y + (d + j)*N_ROWS + r, _mm256_cvtph_ps(cur[j]));
            }
        }
    }
}

// What tinyBLAS has in the lanes LANE, LANE + STEP, LANE + 2*STEP, ... of a column's sum, added up as it does: each lane to
// the one half a vector further, the sums to those a quarter further, ... STEP = 1: all of it.
template <int LANE, int STEP>
inline void lane_sums(vec (&sum)[N_COLS], const float * tile, const float * cols, int n) {
    if constexpr (STEP == N_ROWS) {
        for (int c = 0; c < N_COLS; ++c) {
            sum[c] = GGML_F32_VEC_ZERO;
        }
        for (int d = LANE; d < n; d += N_ROWS) {
            const vec x = GGML_F32_VEC_LOAD(tile + d*N_ROWS);
            for (int c = 0; c < N_COLS; ++c) {
                sum[c] = GGML_F32_VEC_FMA(sum[c], x, GGML_F32_VEC_SET1(cols[c*n + d]));
            }
        }
    } else {
        vec half[N_COLS];
        lane_sums<LANE,        2*STEP>(sum,  tile, cols, n);
        lane_sums<LANE + STEP, 2*STEP>(half, tile, cols, n);
        for (int c = 0; c < N_COLS; ++c) {
            sum[c] = GGML_F32_VEC_ADD(sum[c], half[c]);
        }
    }
}

bool supported(const ggml_compute_params * params, const ggml_tensor * x, const ggml_tensor * y) {
    return !params->use_ref && x->type == GGML_TYPE_F16 && y->type == GGML_TYPE_F32 && y->nb[0] == sizeof(float) &&
        x->ne[0] <= N_DIM && x->ne[0] % N_ROWS == 0 && x->ne[1] % N_ROWS == 0 && y->ne[1] >= N_FEW;
}

} // namespace

bool ggml_mul_mat_short(const ggml_compute_params * params, ggml_tensor * dst) {
    const ggml_tensor * x = dst->src[0];
    const ggml_tensor * y = dst->src[1];

    if (!supported(params, x, y)) {
        return false;
    }

    const int     n       = (int) x->ne[0];
    const int64_t n_cols  = y->ne[1];
    const int64_t n_tiles = x->ne[1]/N_ROWS; // of a matrix
    const int64_t n_all   = n_tiles*y->ne[2]*y->ne[3];
    const int64_t end     = n_all*(params->ith + 1)/params->nth;

    alignas(64) float tile[N_DIM*N_ROWS];
    alignas(64) float cols[N_DIM*N_BLOCK];

    for (int64_t first = n_all*params->ith/params->nth; first < end;) {
        const int64_t i2   = first/n_tiles % y->ne[2];
        const int64_t i3   = first/n_tiles / y->ne[2];
        const int64_t last = std::min(end, first - first % n_tiles + n_tiles); // of this matrix

        const char * xm = (const char *) x->data + i2/(y->ne[2]/x->ne[2])*x->nb[2] + i3/(y->ne[3]/x->ne[3])*x->nb[3];
        const char * ym = (const char *) y->data + i2*y->nb[2] + i3*y->nb[3];
        char       * zm = (char *) dst->data + i2*dst->nb[2] + i3*dst->nb[3];

        for (int64_t c0 = 0; c0 < n_cols; c0 += N_BLOCK) {
            const int n_block = (int) std::min<int64_t>(N_BLOCK, n_cols - c0);
            const int n_more  = (N_COLS - n_block % N_COLS) % N_COLS; // only fill the last group up

            round_columns(cols, ym + c0*y->nb[1], y->nb[1], n, n_block);
            memset(cols + n_block*n, 0, n_more*n*sizeof(float));

            for (int64_t i = first; i < last; ++i) {
                const int64_t row = i % n_tiles*N_ROWS;

                turn_tile(tile, xm + row*x->nb[1], x->nb[1], n);

                for (int c = 0; c < n_block; c += N_COLS) {
                    vec sum[N_COLS];
                    lane_sums<0, 1>(sum, tile, cols + c*n, n);
                    for (int j = 0; j < N_COLS && c + j < n_block; ++j) {
                        GGML_F32_VEC_STORE((float *) (zm + (c0 + c + j)*dst->nb[1]) + row, sum[j]);
                    }
                }
            }
        }
        first = last;
    }
    return true;
}

#else

bool ggml_mul_mat_short(const ggml_compute_params * params, ggml_tensor * dst) {
    GGML_UNUSED(params); GGML_UNUSED(dst);
    return false;
}

#endif
