// llama.cpp's attention takes one query row after the other, and each of them reads and unpacks all of K and V. With
// grouped queries (three heads to a KV head in SmolLM2, four in Llama 3) every cell is read and unpacked as many times.
// Here up to N_ROWS rows that look at one KV head go through N_CELLS cells together: scores, then weights, then values.
// See flash-attn-rows.h for what it promises.

#include "flash-attn-rows.h"

#include "ggml-cpu.h"
#include "simd-mappings.h"
#include "vec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__) && !defined(__AVX512FP16__) && !defined(_MSC_VER)

namespace {

constexpr int N_ROWS  = 4;
constexpr int N_CELLS = 64;
constexpr int N_AHEAD = 16;  // cells that are fetched before their turn
constexpr int N_DIM   = 256; // of a head, at most

constexpr int N_VEC = GGML_F16_EPR;  // numbers in a vector
constexpr int N_SUM = GGML_F16_STEP; // numbers that go into llama.cpp's partial sums of a product

struct attn {
    const ggml_tensor * q, * k, * v, * mask;
    float scale, softcap;

    size_t n_bytes_k, n_bytes_v; // of a row

    ggml_vec_dot_t    dot;    // of a row of K and a query, where K has not 16 bits
    ggml_from_float_t pack_q;
    ggml_to_float_t   unpack_v;
};

// the cells that some row of a group may see, and what they are worth to each row
struct block {
    int     n;
    int64_t cell  [N_CELLS];
    uint8_t seen  [N_CELLS];         // bit r: row r may see it
    float   score [N_ROWS][N_CELLS]; // the mask, until scores are added
    float   weight[N_ROWS][N_CELLS];
    float   shrink[N_ROWS][N_CELLS]; // < 1 where a row finds a new maximum: scales what it has so far
};

struct group {
    alignas(64) float q  [N_ROWS][N_DIM]; // rounded to 16 bits, or packed for `dot`
    alignas(64) float vkq[N_ROWS][N_DIM];
    const ggml_fp16_t * mask[N_ROWS];
    float M[N_ROWS];
    float S[N_ROWS];
    block cells;
};

#if defined(__AVX512F__)
inline __m512 load(const float * x) { return _mm512_load_ps(x); }
inline void   store(float * x, __m512 y) { _mm512_store_ps(x, y); }
inline __m512 rounded(__m512 x) { return _mm512_cvtph_ps(_mm512_cvtps_ph(x, 0)); }
#else
inline __m256 load(const float * x) { return _mm256_load_ps(x); }
inline void   store(float * x, __m256 y) { _mm256_store_ps(x, y); }
inline __m256 rounded(__m256 x) { return _mm256_cvtph_ps(_mm256_cvtps_ph(x, 0)); }
#endif

// rows of one head lie far apart, and waiting for them takes longer than what is computed here
inline void fetch(const char * row, size_t n_bytes) {
    for (size_t i = 0; i < n_bytes; i += 64) {
        _mm_prefetch(row + i, _MM_HINT_T0);
    }
}

template <int R>
void find_cells(group & g, int64_t ic0, int64_t ic1) {
    block & b = g.cells;
    b.n = 0;
    for (int64_t ic = ic0; ic < ic1; ++ic) {
        uint8_t seen = 0;
        for (int r = 0; r < R; ++r) {
            const float m = g.mask[r] ? GGML_CPU_FP16_TO_FP32(g.mask[r][ic]) : 0.0f;
            b.score[r][b.n] = m;
            seen |= (m != -INFINITY) << r;
        }
        b.cell[b.n] = ic;
        b.seen[b.n] = seen;
        b.n += seen != 0;
    }
}

inline void add_score(float & score, const attn & a, float s) {
    s = s*a.scale;
    if (a.softcap != 0.0f) {
        s = a.softcap*tanhf(s);
    }
    score = s + score;
}

template <int R>
void find_scores_f16(block & b, const group & g, const attn & a, const char * k) {
    const int n = (int) a.k->ne[0];

    for (int c = 0; c < b.n; ++c) {
        fetch(k + (b.cell[c] + N_AHEAD)*a.k->nb[1], a.n_bytes_k);
        const ggml_fp16_t * row = (const ggml_fp16_t *) (k + b.cell[c]*a.k->nb[1]);

        GGML_F16_VEC sums[R][GGML_F16_ARR];
        for (int r = 0; r < R; ++r) {
            for (int j = 0; j < GGML_F16_ARR; ++j) {
                sums[r][j] = GGML_F16_VEC_ZERO;
            }
        }
        for (int i = 0; i < n; i += N_SUM) {
            for (int j = 0; j < GGML_F16_ARR; ++j) {
                const GGML_F16_VEC x = GGML_F16_VEC_LOAD(row + i + j*N_VEC, j);
                for (int r = 0; r < R; ++r) {
                    sums[r][j] = GGML_F16_VEC_FMA(sums[r][j], x, load(g.q[r] + i + j*N_VEC));
                }
            }
        }
        for (int r = 0; r < R; ++r) {
            ggml_float sum;
            GGML_F16_VEC_REDUCE(sum, sums[r]);
            add_score(b.score[r][c], a, sum);
        }
    }
}

template <int R>
void find_scores(block & b, const group & g, const attn & a, const char * k) {
    for (int c = 0; c < b.n; ++c) {
        fetch(k + (b.cell[c] + N_AHEAD)*a.k->nb[1], a.n_bytes_k);
        for (int r = 0; r < R; ++r) {
            float sum;
            a.dot((int) a.k->ne[0], &sum, 0, k + b.cell[c]*a.k->nb[1], 0, g.q[r], 0, 1);
            add_score(b.score[r][c], a, sum);
        }
    }
}

template <int R>
void find_weights(group & g) {
    block & b = g.cells;
    for (int r = 0; r < R; ++r) {
        float M = g.M[r];
        float S = g.S[r];

        for (int c = 0; c < b.n; ++c) {
            if (!(b.seen[c] >> r & 1)) {
                continue;
            }
            const float s = b.score[r][c];

            float ms = 1.0f;
            float vs = 1.0f;
            if (s > M) {
                ms = expf(M - s);
                M  = s;
            } else {
                vs = expf(s - M);
            }
            S = fmaf(S, ms, vs); // compilers fuse llama.cpp's S*ms + vs

            b.weight[r][c] = vs;
            b.shrink[r][c] = ms;
        }
        g.M[r] = M;
        g.S[r] = S;
    }
}

// the sums are rounded to 16 bits with every cell, as llama.cpp does it
template <int R>
void add_values_f16(group & g, const attn & a, const char * v) {
    constexpr int N = 2; // vectors of a row that stay in registers
    const block & b = g.cells;

    for (int i = 0; i < a.v->ne[0]; i += N*N_VEC) {
        GGML_F16_VEC acc[R][N];
        for (int r = 0; r < R; ++r) {
            for (int j = 0; j < N; ++j) {
                acc[r][j] = load(g.vkq[r] + i + j*N_VEC);
            }
        }
        for (int c = 0; c < b.n; ++c) {
            const ggml_fp16_t * row = (const ggml_fp16_t *) (v + b.cell[c]*a.v->nb[1]) + i;
            GGML_F16_VEC x[N];
            for (int j = 0; j < N; ++j) {
                x[j] = GGML_F16_VEC_LOAD(row + j*N_VEC, j);
            }
            for (int r = 0; r < R; ++r) {
                if (!(b.seen[c] >> r & 1)) {
                    continue;
                }
                if (b.shrink[r][c] != 1.0f) {
                    const GGML_F16_VEC ms = GGML_F16_VEC_SET1(b.shrink[r][c]);
                    for (int j = 0; j < N; ++j) {
                        acc[r][j] = rounded(GGML_F16_VEC_MUL(acc[r][j], ms));
                    }
                }
                const GGML_F16_VEC vs = GGML_F16_VEC_SET1(b.weight[r][c]);
                for (int j = 0; j < N; ++j) {
                    acc[r][j] = rounded(GGML_F16_VEC_FMA(acc[r][j], x[j], vs));
                }
            }
        }
        for (int r = 0; r < R; ++r) {
            for (int j = 0; j < N; ++j) {
                store(g.vkq[r] + i + j*N_VEC, acc[r][j]);
            }
        }
    }
}

template <int R>
void add_values(group & g, const attn & a, const char * v) {
    const block & b = g.cells;
    const int n = (int) a.v->ne[0];

    for (int c = 0; c < b.n; ++c) {
        float row[N_DIM];
        a.unpack_v(v + b.cell[c]*a.v->nb[1], row, n);

        for (int r = 0; r < R; ++r) {
            if (!(b.seen[c] >> r & 1)) {
                continue;
            }
            if (b.shrink[r][c] != 1.0f) {
                ggml_vec_scale_f32(n, g.vkq[r], b.shrink[r][c]);
            }
            ggml_vec_mad_f32(n, g.vkq[r], row, b.weight[r][c]);
        }
    }
}

template <int R>
void attend(group & g, const attn & a, const char * k, const char * v, int64_t ic0, int64_t ic1) {
    for (int64_t ic = ic0; ic < ic1; ic += N_CELLS) {
        find_cells<R>(g, ic, std::min(ic + N_CELLS, ic1));
        for (int c = 0; c < g.cells.n; ++c) {
            fetch(v + g.cells.cell[c]*a.v->nb[1], a.n_bytes_v);
        }
        if (a.k->type == GGML_TYPE_F16) {
            find_scores_f16<R>(g.cells, g, a, k);
        } else {
            find_scores<R>(g.cells, g, a, k);
        }
        find_weights<R>(g);
        if (a.v->type == GGML_TYPE_F16) {
            add_values_f16<R>(g, a, v);
        } else {
            add_values<R>(g, a, v);
        }
    }
}

bool supported(const ggml_compute_params * params, const ggml_tensor * dst) {
    const ggml_tensor * q = dst->src[0];
    const ggml_tensor * k = dst->src[1];
    const ggml_tensor * v = dst->src[2];

    float max_bias;
    memcpy(&max_bias, (const float *) dst->op_params + 1, sizeof(float));

    return !params->use_ref && max_bias == 0.0f && dst->src[4] == nullptr && // no ALiBi, no sinks
        q->type == GGML_TYPE_F32 && v->type != GGML_TYPE_F32 &&
        k->ne[0] <= N_DIM && k->ne[0] % N_SUM == 0 && v->ne[0] <= N_DIM && v->ne[0] % N_SUM == 0 &&
        k->ne[2] == v->ne[2] && k->ne[3] == v->ne[3];
}

attn describe(const ggml_tensor * dst) {
    attn a = {};
    a.q = dst->src[0], a.k = dst->src[1], a.v = dst->src[2], a.mask = dst->src[3];
    memcpy(&a.scale,   (const float *) dst->op_params + 0, sizeof(float));
    memcpy(&a.softcap, (const float *) dst->op_params + 2, sizeof(float));
    if (a.softcap != 0.0f) {
        a.scale /= a.softcap;
    }
    a.n_bytes_k = ggml_row_size(a.k->type, a.k->ne[0]);
    a.n_bytes_v = ggml_row_size(a.v->type, a.v->ne[0]);

    const ggml_type_traits_cpu * k = ggml_get_type_traits_cpu(a.k->type);
    a.dot      = k->vec_dot;
    a.pack_q   = ggml_get_type_traits_cpu(k->vec_dot_type)->from_float;
    a.unpack_v = ggml_get_type_traits(a.v->type)->to_float;
    return a;
}

} // namespace

bool ggml_flash_attn_rows(
        const ggml_compute_params * params, ggml_tensor * dst,
        int64_t ir0, int64_t ir1, int64_t ic0, int64_t ic1, float * partials, int64_t stride) {
    if (!supported(params, dst)) {
        return false;
    }
    const attn a = describe(dst);
    const int64_t n_tokens = a.q->ne[1];
    const int64_t n_head   = a.q->ne[2];
    const int64_t per_head = n_head/a.k->ne[2]; // heads that look at one KV head
    const int64_t per_seq  = a.q->ne[3]/a.k->ne[3];
    const int64_t n_group  = n_tokens*per_head; // rows that look at one KV head

    group g;
    for (int64_t ir = ir0; ir < ir1;) {
        const int n = (int) std::min({ (int64_t) N_ROWS, ir1 - ir, n_group - ir % n_group });
        const int64_t i3 = ir/(n_head*n_tokens);
        const int64_t i2 = ir/n_tokens % n_head;

        for (int r = 0; r < n; ++r) {
            const int64_t iq2 = (ir + r)/n_tokens % n_head;
            const int64_t iq1 = (ir + r) % n_tokens;
            const char * q = (const char *) a.q->data + iq1*a.q->nb[1] + iq2*a.q->nb[2] + i3*a.q->nb[3];

            if (a.k->type == GGML_TYPE_F16) {
                for (int i = 0; i < a.q->ne[0]; ++i) {
                    g.q[r][i] = GGML_CPU_FP16_TO_FP32(GGML_CPU_FP32_TO_FP16(((const float *) q)[i]));
                }
            } else {
                a.pack_q((const float *) q, g.q[r], a.q->ne[0]);
            }
            memset(g.vkq[r], 0, a.v->ne[0]*sizeof(float));
            g.mask[r] = !a.mask ? nullptr : (const ggml_fp16_t *) ((const char *) a.mask->data +
                iq1*a.mask->nb[1] + iq2 % a.mask->ne[2]*a.mask->nb[2] + i3 % a.mask->ne[3]*a.mask->nb[3]);
            g.M[r] = -INFINITY;
            g.S[r] = 0.0f;
        }

        const char * k = (const char *) a.k->data + i2/per_head*a.k->nb[2] + i3/per_seq*a.k->nb[3];
        const char * v = (const char *) a.v->data + i2/per_head*a.v->nb[2] + i3/per_seq*a.v->nb[3];
        switch (n) {
            case 1:  attend<1>(g, a, k, v, ic0, ic1); break;
            case 2:  attend<2>(g, a, k, v, ic0, ic1); break;
            case 3:  attend<3>(g, a, k, v, ic0, ic1); break;
            default: attend<4>(g, a, k, v, ic0, ic1); break;
        }

        for (int r = 0; r < n; ++r, ++ir) {
            if (partials) {
                float * out = partials + ir*stride;
                out[0] = g.M[r];
                out[1] = g.S[r];
                memcpy(out + 2, g.vkq[r], a.v->ne[0]*sizeof(float));
            } else {
                const int64_t row = (i3*n_tokens + ir % n_tokens)*n_head + ir/n_tokens % n_head;
                ggml_vec_scale_f32((int) a.v->ne[0], g.vkq[r], g.S[r] == 0.0f ? 0.0f : 1.0f/g.S[r]);
                memcpy((char *) dst->data + row*dst->nb[1], g.vkq[r], a.v->ne[0]*sizeof(float));
            }
        }
    }
    return true;
}

#else

bool ggml_flash_attn_rows(
        const ggml_compute_params * params, ggml_tensor * dst,
        int64_t ir0, int64_t ir1, int64_t ic0, int64_t ic1, float * partials, int64_t stride) {
    GGML_UNUSED(params); GGML_UNUSED(dst); GGML_UNUSED(ir0); GGML_UNUSED(ir1);
    GGML_UNUSED(ic0); GGML_UNUSED(ic1); GGML_UNUSED(partials); GGML_UNUSED(stride);
    return false;
}

#endif
