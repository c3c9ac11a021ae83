// llama.cpp multiplies Q4_1 weights row by row with each column and unpacks the row every time. Here a tile of 16 rows
// is unpacked once, a slab of 512 elements at a time so that all of it stays in the first-level cache, and multiplied
// with 16 columns; see q4-1-tile.h for what it promises.

#define GGML_COMMON_DECL_C
#include "ggml-common.h"

#include "q4-1-tile.h"
#include "ggml-cpu-impl.h"
#include "simd-mappings.h"

#if defined(__AVX2__) && defined(__FMA__)

#define N_TILE 16 // rows, and columns, of a tile
#define N_SLAB 16 // blocks of 32 elements in a slab
#define N_ROWS 4  // rows and columns whose sums stay in registers together
#define N_COLS 2

#define MIN_COLS 4 // fewer would not pay for the unpacking

struct tile_rows { // of Q4_1: q*d + m
    __m256i q[N_SLAB][N_TILE];
    float   d[N_SLAB][N_TILE];
    __m256  m[N_SLAB][N_TILE/8];
};

struct tile_cols { // of Q8_1; s is d times the sum of the block
    __m256i q[N_TILE][N_SLAB];
    float   d[N_TILE][N_SLAB];
    float   s[N_TILE][N_SLAB];
};

struct tile_sums {
    __m256 dq[N_TILE][N_TILE]; // column, row
    __m256 ms[N_TILE][N_TILE/8];
};

static void load_rows(struct tile_rows * rows, const char * x, size_t nb_x, int n, int64_t ib, int n_slab) {
    const __m128i low = _mm_set1_epi8(0x0f);

    for (int r = 0; r < n; ++r) {
        const block_q4_1 * block = (const block_q4_1 *) (x + r*nb_x) + ib;

        for (int k = 0; k < n_slab; ++k) {
            const __m128i q = _mm_loadu_si128((const __m128i *) block[k].qs);

            rows->q[k][r] = _mm256_set_m128i(_mm_and_si128(_mm_srli_epi16(q, 4), low), _mm_and_si128(q, low));
            rows->d[k][r] = GGML_CPU_FP16_TO_FP32(block[k].d);
            ((float *) rows->m[k])[r] = GGML_CPU_FP16_TO_FP32(block[k].m);
        }
    }
}

static void load_cols(struct tile_cols * cols, const char * y, size_t nb_y, int n, int64_t ib, int n_slab) {
    for (int c = 0; c < n; ++c) {
        const block_q8_1 * block = (const block_q8_1 *) (y + c*nb_y) + ib;

        for (int k = 0; k < n_slab; ++k) {
            cols->q[c][k] = _mm256_loadu_si256((const __m256i *) block[k].qs);
            cols->d[c][k] = GGML_CPU_FP16_TO_FP32(block[k].d);
            cols->s[c][k] = GGML_CPU_FP16_TO_FP32(block[k].s);
        }
    }
}

static inline __m256 dot_block(__m256i qx, __m256i qy) {
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
    const __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), qx, qy);
#elif defined(__AVXVNNI__)
    const __m256i sums = _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), qx, qy);
#else
    const __m256i sums = _mm256_madd_epi16(_mm256_set1_epi16(1), _mm256_maddubs_epi16(qx, qy)); // at most 2*15*127: no overflow
#endif
    return _mm256_cvtepi32_ps(sums);
}

// rows that the tile does not have are computed, too, and never stored
static void add_slab(
        struct tile_sums * sums, const struct tile_rows * rows, const struct tile_cols * cols, int n_cols, int n_slab, bool is_first) {
    for (int c0 = 0; c0 < n_cols; c0 += N_COLS) {
        for (int r0 = 0; r0 < N_TILE; r0 += N_ROWS) {
            __m256 acc[N_COLS][N_ROWS];
            for (int c = 0; c < N_COLS; ++c) {
                for (int r = 0; r < N_ROWS; ++r) {
                    acc[c][r] = is_first ? _mm256_setzero_ps() : sums->dq[c0 + c][r0 + r];
                }
            }
            for (int k = 0; k < n_slab; ++k) {
                for (int c = 0; c < N_COLS; ++c) {
                    const __m256i qy = cols->q[c0 + c][k];
                    const __m256  dy = _mm256_broadcast_ss(&cols->d[c0 + c][k]);
                    for (int r = 0; r < N_ROWS; ++r) {
                        const __m256 d = _mm256_mul_ps(_mm256_broadcast_ss(&rows->d[k][r0 + r]), dy);
                        acc[c][r] = _mm256_fmadd_ps(d, dot_block(rows->q[k][r0 + r], qy), acc[c][r]);
                    }
                }
            }
            for (int c = 0; c < N_COLS; ++c) {
                for (int r = 0; r < N_ROWS; ++r) {
                    sums->dq[c0 + c][r0 + r] = acc[c][r];
                }
            }
        }
    }
    for (int c = 0; c < n_cols; ++c) {
        __m256 ms[N_TILE/8];
        for (int r = 0; r < N_TILE/8; ++r) {
            ms[r] = is_first ? _mm256_setzero_ps() : sums->ms[c][r];
        }
        for (int k = 0; k < n_slab; ++k) {
            const __m256 s = _mm256_broadcast_ss(&cols->s[c][k]);
            for (int r = 0; r < N_TILE/8; ++r) {
                ms[r] = _mm256_fmadd_ps(rows->m[k][r], s, ms[r]);
            }
        }
        for (int r = 0; r < N_TILE/8; ++r) {
            sums->ms[c][r] = ms[r];
        }
    }
}

// in the order of llama.cpp's row-wise product: halves, quarters, eighths
static inline float sum_lanes(__m256 v) {
    const __m128 half    = _mm_add_ps(_mm256_extractf128_ps(v, 1), _mm256_castps256_ps128(v));
    const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}

bool ggml_mul_mat_q4_1_tile(
        int64_t nb,
        const void * x, size_t nb_x, int64_t i0_start, int64_t i0_end,
        const void * y, size_t nb_y, int64_t i1_start, int64_t i1_end,
        void * dst, size_t nb_dst) {
    if (i1_end - i1_start < MIN_COLS) {
        return false;
    }

    struct tile_rows rows;
    struct tile_cols cols;
    struct tile_sums sums;

    // a tile that is not full multiplies what an earlier one left, or zeros: numbers that exist
    if ((i0_end - i0_start) % N_TILE) {
        memset(&rows, 0, sizeof(rows));
    }
    if ((i1_end - i1_start) % N_TILE) {
        memset(&cols, 0, sizeof(cols));
    }

    for (int64_t i1 = i1_start; i1 < i1_end; i1 += N_TILE) {
        const int n_cols = (int) (i1_end - i1 < N_TILE ? i1_end - i1 : N_TILE);

        for (int64_t i0 = i0_start; i0 < i0_end; i0 += N_TILE) {
            const int n_rows = (int) (i0_end - i0 < N_TILE ? i0_end - i0 : N_TILE);

            for (int64_t ib = 0; ib < nb; ib += N_SLAB) {
                const int n_slab = (int) (nb - ib < N_SLAB ? nb - ib : N_SLAB);

                load_rows(&rows, (const char *) x + i0*nb_x, nb_x, n_rows, ib, n_slab);
                load_cols(&cols, (const char *) y + i1*nb_y, nb_y, n_cols, ib, n_slab);
                add_slab(&sums, &rows, &cols, n_cols, n_slab, ib == 0);
            }
            for (int c = 0; c < n_cols; ++c) {
                float * out = (float *) ((char *) dst + (i1 + c)*nb_dst) + i0;
                for (int r = 0; r < n_rows; ++r) {
                    out[r] = sum_lanes(sums.dq[c][r]) + ((const float *) sums.ms[c])[r];
                }
            }
        }
    }
    return true;
}

#else

bool ggml_mul_mat_q4_1_tile(
        int64_t nb,
        const void * x, size_t nb_x, int64_t i0_start, int64_t i0_end,
        const void * y, size_t nb_y, int64_t i1_start, int64_t i1_end,
        void * dst, size_t nb_dst) {
    (void) nb, (void) x, (void) nb_x, (void) i0_start, (void) i0_end;
    (void) y, (void) nb_y, (void) i1_start, (void) i1_end, (void) dst, (void) nb_dst;
    return false;
}

#endif
