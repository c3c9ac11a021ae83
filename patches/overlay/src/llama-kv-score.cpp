// llama_kv_cache: how little every key is like the others (KeyDiff, arXiv 2504.15364), its rotation taken back
//
// For a layer and KV head the score of cell c is -cos(k_c, m), m the mean of the normalized keys, where k_c is the key
// without the rotation R(p_c) by its position. Rotations compose: with p = p_a + b for cell b of block a,
//
//   sum_c R(-p_c) k_c    = sum_a R(-p_a) sum_b R(-b) k_ab
//   (R(-p_c) k_c) . m    = (R(-b) k_ab) . (R(p_a) m)
//
// so every key is turned by the few angles 0..B-1 only, and what turns by p_a is one row per block. The basis in which
// quantized keys are stored is left before they are turned; cosines do not depend on it otherwise.

#include "llama-kv-compact.h"
#include "llama-kv-score.h"
#include "llama-kv-side.h"

#include "llama-context.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// bytes of one intermediate tensor; at most three of them live at a time
static constexpr size_t SCORE_BLOCK_BYTES = 8u*1024*1024;

// tensors per layer in a graph, an upper bound for two chunks; decides how many layers share a graph
static constexpr int64_t SCORE_TENSORS = 240;

// tensors of one graph
struct score_graph {
    struct inputs {
        ggml_tensor * cell = nullptr; // I32 [n_b*n_a]
        ggml_tensor * pos  = nullptr; // I32 [n_a]
        ggml_tensor * back = nullptr; // I32 [n_a]
        ggml_tensor * own  = nullptr; // I32 [n_b]
    };

    std::vector<inputs> inps; // one per chunk

    ggml_tensor * rot = nullptr; // Hadamard matrix of quantized K

    ggml_tensor * mean = nullptr; // F32 [head_dim, n_head_kv], in graphs of one chunk

    std::vector<std::vector<ggml_tensor *>> scores; // [layer][chunk] F32 [n_b, 1, n_head_kv*n_a]
};

enum score_what {
    SCORE_ALL,  // mean and scores
    SCORE_MEAN, // the sum over one chunk
    SCORE_DOT,  // scores of one chunk, given the mean
};

int32_t llama_kv_cache::n_head_kv() const {
    int32_t res = -1;

    for (const auto & layer : layers) {
        const int32_t n = hparams.n_head_kv(layer.il);

        if (n == 0 || (res >= 0 && n != res)) {
            return 0;
        }
        res = n;
    }

    return std::max(0, res);
}

bool llama_kv_cache::score_keys(llama_context * lctx, llama_seq_id seq_id, int32_t first, float * scores) const {
    const auto & cparams = lctx->get_cparams();

    std::vector<uint32_t>  cell;
    std::vector<llama_pos> pos;
    for (const auto & pc : get_cells(seq_id).seq_pos_get(seq_id)) {
        pos .push_back(pc.first);
        cell.push_back(pc.second);
    }
    pos .erase(pos .begin(), pos .begin() + first);
    cell.erase(cell.begin(), cell.begin() + first);

    const int64_t n_cells = cell.size();
    const int64_t n_head  = n_head_kv();
    const int64_t n_layer = layers.size();
    const auto    strm    = get_stream(seq_id);

    int64_t n_embd = 1; // widest row
    for (const auto & layer : layers) {
        n_embd = std::max(n_embd, layer.k->ne[0]);
    }

    const int64_t n_max  = std::max<int64_t>(1, SCORE_BLOCK_BYTES/sizeof(float)/n_embd);
    const auto    chunks = llama_kv_score_chunks(cell, pos, n_max);

    score_graph graph;

    // the keys of one chunk, normalized, turned by -b: F32 [head_dim, n_head, n_a, n_b]
    const auto build_keys = [&](ggml_context * ctx, int64_t i, const llama_kv_score_chunk & chunk, const score_graph::inputs & inp) {
        const auto & layer = layers[i];

        const int64_t n_dim = layer.k->ne[0]/n_head;

        ggml_tensor * cur = ggml_get_rows(ctx, layer.k_stream[strm], inp.cell); // F32
        cur = ggml_reshape_3d(ctx, cur, n_dim, n_head*chunk.n_a, chunk.n_b);
        cur = ggml_l2_norm_inplace(ctx, cur, 1e-20f);

        if (llama_kv_compact_is_rotated(model, layer.il)) {
            if (graph.rot) {
                cur = llama_mul_mat_hadamard(ctx, cur, graph.rot);
            }
            if (chunk.n_b > 1) {
                cur = llama_kv_compact_rope(model, cparams, ctx, cur, inp.own, layer.il);
            }
        }

        return ggml_reshape_4d(ctx, cur, n_dim, n_head, chunk.n_a, chunk.n_b);
    };

    // sum of the keys without their rotation: F32 [head_dim, n_head]
    const auto build_sum = [&](ggml_context * ctx, int64_t i, ggml_tensor * keys, const score_graph::inputs & inp) {
        const int64_t n_dim = keys->ne[0];
        const int64_t n_a   = keys->ne[2];

        ggml_tensor * cur = llama_kv_side_sum(ctx, ggml_reshape_2d(ctx, keys, n_dim*n_head*n_a, keys->ne[3]));

        if (llama_kv_compact_is_rotated(model, layers[i].il)) {
            // a sum of one row is the keys themselves, which are still needed
            cur = keys->ne[3] > 1 ? cur : ggml_dup(ctx, cur);
            cur = ggml_reshape_3d(ctx, cur, n_dim, n_head, n_a);
            cur = llama_kv_compact_rope(model, cparams, ctx, cur, inp.back, layers[i].il);
        }
        cur = llama_kv_side_sum(ctx, ggml_reshape_2d(ctx, cur, n_dim*n_head, n_a));

        return ggml_reshape_2d(ctx, cur, n_dim, n_head);
    };

    // F32 [n_b, 1, n_head*n_a]
    const auto build_dot = [&](ggml_context * ctx, int64_t i, ggml_tensor * keys, ggml_tensor * mean, const score_graph::inputs & inp) {
        const int64_t n_dim = keys->ne[0];
        const int64_t n_a   = keys->ne[2];

        mean = ggml_scale(ctx, ggml_l2_norm(ctx, mean, 1e-20f), -1.0f);
        mean = ggml_repeat_4d(ctx, mean, n_dim, n_head, n_a, 1);

        if (llama_kv_compact_is_rotated(model, layers[i].il)) {
            mean = llama_kv_compact_rope(model, cparams, ctx, mean, inp.pos, layers[i].il);
        }

        keys = ggml_permute(ctx, ggml_reshape_3d(ctx, keys, n_dim, n_head*n_a, keys->ne[3]), 0, 2, 1, 3);
        mean = ggml_reshape_3d(ctx, mean, n_dim, 1, n_head*n_a);

        ggml_tensor * res = ggml_mul_mat(ctx, keys, mean);
        ggml_prec_set_acc(res, GGML_PREC_F32);
        ggml_set_output(res);

        return res;
    };

    // layers [i0, i1), chunks [c0, c1); a mean that is given lies in `mean`
    std::vector<float> mean;

    const auto compute = [&](score_what what, int64_t i0, int64_t i1, int64_t c0, int64_t c1) {
        const auto build = [&](ggml_context * ctx, ggml_cgraph * gf) {
            graph = {};

            for (int64_t c = c0; c < c1; ++c) {
                score_graph::inputs inp;

                inp.cell = llama_kv_side_input(ctx, GGML_TYPE_I32, chunks[c].cell.size());
                inp.pos  = llama_kv_side_input(ctx, GGML_TYPE_I32, chunks[c].n_a);
                inp.back = llama_kv_side_input(ctx, GGML_TYPE_I32, chunks[c].n_a);
                inp.own  = llama_kv_side_input(ctx, GGML_TYPE_I32, chunks[c].n_b);

                graph.inps.push_back(inp);
            }
            if (attn_rot_k) {
                graph.rot = build_input_k_rot(ctx);
            }

            for (int64_t i = i0; i < i1; ++i) {
                std::vector<ggml_tensor *> keys;

                ggml_tensor * sum = nullptr;

                for (int64_t c = c0; c < c1; ++c) {
                    const auto & inp = graph.inps[c - c0];

                    keys.push_back(build_keys(ctx, i, chunks[c], inp));

                    if (what != SCORE_DOT) {
                        ggml_tensor * part = build_sum(ctx, i, keys.back(), inp);
                        sum = sum ? ggml_add(ctx, sum, part) : part;
                    }
                }
                if (what == SCORE_MEAN) {
                    sum = ggml_cont(ctx, sum);
                    ggml_set_output(sum);
                    graph.mean = sum;
                    ggml_build_forward_expand(gf, sum);
                    continue;
                }
                if (what == SCORE_DOT) {
                    sum = graph.mean = llama_kv_side_input(ctx, GGML_TYPE_F32, layers[i].k->ne[0]/n_head, n_head);
                }

                graph.scores.emplace_back();

                for (int64_t c = c0; c < c1; ++c) {
                    graph.scores.back().push_back(build_dot(ctx, i, keys[c - c0], sum, graph.inps[c - c0]));
                    ggml_build_forward_expand(gf, graph.scores.back().back());
                }
            }
        };

        const auto set = [&]() {
            for (int64_t c = c0; c < c1; ++c) {
                const auto & inp = graph.inps[c - c0];

                llama_kv_side_set(inp.cell, chunks[c].cell.data());
                llama_kv_side_set(inp.pos,  chunks[c].pos .data());
                llama_kv_side_set(inp.back, chunks[c].back.data());
                llama_kv_side_set(inp.own,  chunks[c].own .data());
            }
            if (graph.rot) {
                llama_kv_side_set(graph.rot, attn_rot_hadamard.at(graph.rot->ne[0]).data());
            }
            if (what == SCORE_DOT) {
                llama_kv_side_set(graph.mean, mean.data());
            }
        };

        if (!llama_kv_side_compute(lctx, build, set)) {
            return false;
        }

        std::vector<float> data;

        if (what == SCORE_MEAN) {
            data.resize(ggml_nelements(graph.mean));
            ggml_backend_tensor_get(graph.mean, data.data(), 0, ggml_nbytes(graph.mean));

            mean.resize(data.size(), 0.0f);
            for (size_t j = 0; j < data.size(); ++j) {
                mean[j] += data[j];
            }
            return true;
        }

        for (int64_t i = i0; i < i1; ++i) {
            for (int64_t c = c0; c < c1; ++c) {
                const auto & chunk = chunks[c];
                ggml_tensor * t = graph.scores[i - i0][c - c0];

                data.resize(ggml_nelements(t));
                ggml_backend_tensor_get(t, data.data(), 0, ggml_nbytes(t));

                for (int64_t a = 0; a < chunk.n_a; ++a) {
                    for (int64_t h = 0; h < n_head; ++h) {
                        const float * src = data.data() + (a*n_head + h)*chunk.n_b;
                        float       * dst = scores + (i*n_head + h)*n_cells;

                        for (int64_t b = 0; b < chunk.n_b; ++b) {
                            dst[chunk.order[b*chunk.n_a + a]] = src[b];
                        }
                    }
                }
            }
        }
        return true;
    };

    const int64_t n_chunks = chunks.size();

    if (n_cells <= n_max) {
        const int64_t n_at_once = std::max<int64_t>(1, lctx->get_gf_res_reserve()->get_max_nodes()/SCORE_TENSORS);

        for (int64_t i = 0; i < n_layer; i += n_at_once) {
            if (!compute(SCORE_ALL, i, std::min(n_layer, i + n_at_once), 0, n_chunks)) {
                return false;
            }
        }
        return true;
    }

    // the keys of one layer are more than a block: they are read and turned twice
    for (int64_t i = 0; i < n_layer; ++i) {
        mean.clear();

        for (const auto what : { SCORE_MEAN, SCORE_DOT }) {
            for (int64_t c = 0; c < n_chunks; ++c) {
                if (!compute(what, i, i + 1, c, c + 1)) {
                    return false;
                }
            }
        }
    }

    return true;
}
