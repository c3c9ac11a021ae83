// llama_kv_cache: how much attention the recorded queries give to every cell, with the keys that it holds now
//
// the operations are those of llm_graph_context::build_attn_mha() without flash attention, up to the softmax

#include "llama-kv-query.h"
#include "llama-kv-side.h"

#include "llama-context.h"
#include "llama-kv-cache.h"
#include "llama-lacache.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>

// bytes of one intermediate tensor, or one query's, should they be more; at most three of them live at a time
static constexpr size_t SCORE_BLOCK_BYTES = 8u*1024*1024;

// tensors per layer in a graph, for every block of queries: decides how many layers share a graph
static constexpr int64_t SCORE_TENSORS = 80;

bool llama_kv_cache::score_attention(llama_context * lctx, llama_seq_id seq_id, float * scores) const {
    const int64_t n_head_kv = this->n_head_kv();
    const int64_t n_layer   = layers.size();
    const int64_t n_query   = query->n;
    const auto    strm      = get_stream(seq_id);

    std::vector<uint32_t>  cell;
    std::vector<llama_pos> pos;
    for (const auto & pc : get_cells(seq_id).seq_pos_get(seq_id)) {
        pos .push_back(pc.first);
        cell.push_back(pc.second);
    }

    const int64_t n_cells = cell.size();

    // physical cells [0, n_kv) as they lie, in the step of their allocation; those that are not the sequence's, or come
    // later, are masked. With an odd number, 1,023 of 1,024, the CPU's matrix kernel takes twice as long
    const int64_t n_kv = std::min<int64_t>(get_size(), GGML_PAD(*std::max_element(cell.begin(), cell.end()) + 1, llama_lacache_cell_step()));

    const auto set_mask = [&](ggml_tensor * t, int64_t q0) {
        std::vector<float> data(ggml_nelements(t), -INFINITY);

        for (int64_t q = 0; q < t->ne[1]; ++q) {
            const llama_pos p = query->pos[q0 + q];

            for (int64_t i = 0; i < n_cells && pos[i] <= p; ++i) {
                data[q*n_kv + cell[i]] = hparams.use_alibi ? pos[i] - p : 0.0f;
            }
        }
        llama_kv_side_set(t, data.data());
    };

    int64_t n_head_max = 1;
    for (const auto & layer : layers) {
        n_head_max = std::max<int64_t>(n_head_max, hparams.n_head(layer.il));
    }

    const int64_t n_block = std::clamp<int64_t>(SCORE_BLOCK_BYTES/sizeof(float)/(n_kv*n_head_max), 1, n_query);
    const int64_t n_parts = (n_query + n_block - 1)/n_block;

    ggml_tensor * inp_mask = nullptr;

    std::vector<ggml_tensor *> sums; // F32 [n_kv, 1, n_head_kv] of each layer

    // the sum of layer i over the queries [q0, q1)
    const auto build_sum = [&](ggml_context * ctx, int64_t i, int64_t q0, int64_t q1, ggml_tensor * m) {
        const auto & rec = query->layers[i];

        ggml_tensor * k = layers[i].k_stream[strm];
        ggml_tensor * q = rec.q;

        const int64_t n_dim  = k->ne[0]/n_head_kv;
        const int64_t n_head = q->ne[0]/n_dim;

        k = ggml_view_3d(ctx, k, n_dim, n_head_kv, n_kv,    ggml_row_size(k->type, n_dim), k->nb[1], 0);
        q = ggml_view_3d(ctx, q, n_dim, n_head,    q1 - q0, ggml_row_size(q->type, n_dim), q->nb[1], q0*q->nb[1]);

        // the query heads of one KV head are neighbours: one product for all of them, so keys are read once
        q = ggml_cont_3d(ctx, ggml_permute(ctx, q, 0, 2, 1, 3), n_dim, (q1 - q0)*n_head/n_head_kv, n_head_kv);

        ggml_tensor * kq = ggml_mul_mat(ctx, ggml_permute(ctx, k, 0, 2, 1, 3), q);
        ggml_prec_set_acc(kq, GGML_PREC_F32);
        kq = ggml_reshape_3d(ctx, kq, n_kv, q1 - q0, n_head);

        if (hparams.attn_soft_cap) {
            kq = ggml_scale(ctx, kq, 1.0f/hparams.f_attn_logit_softcapping);
            kq = ggml_scale(ctx, ggml_tanh(ctx, kq), hparams.f_attn_logit_softcapping);
        }

        kq = ggml_soft_max_ext(ctx, kq, m, rec.scale, hparams.f_max_alibi_bias);
        ggml_soft_max_add_sinks(kq, rec.sinks);

        return llama_kv_side_sum(ctx, ggml_reshape_3d(ctx, kq, n_kv, (q1 - q0)*n_head/n_head_kv, n_head_kv));
    };

    // layers [i0, i1), blocks of queries [b0, b1)
    const auto compute = [&](int64_t i0, int64_t i1, int64_t b0, int64_t b1) {
        const int64_t q0 = b0*n_block;
        const int64_t q1 = std::min(n_query, b1*n_block);

        const auto build = [&](ggml_context * ctx, ggml_cgraph * gf) {
            sums.clear();

            inp_mask = llama_kv_side_input(ctx, GGML_TYPE_F32, n_kv, q1 - q0);

            for (int64_t i = i0; i < i1; ++i) {
                ggml_tensor * sum = nullptr;

                for (int64_t q = q0; q < q1; q += n_block) {
                    const int64_t n = std::min(n_block, q1 - q);

                    ggml_tensor * m = ggml_view_2d(ctx, inp_mask, n_kv, n, inp_mask->nb[1], (q - q0)*inp_mask->nb[1]);
                    ggml_tensor * part = build_sum(ctx, i, q, q + n, m);

                    sum = sum ? ggml_add(ctx, sum, part) : part;
                    ggml_build_forward_expand(gf, sum);
                }

                sum = ggml_cont(ctx, sum);
                ggml_set_output(sum);
                ggml_build_forward_expand(gf, sum);
                sums.push_back(sum);
            }
        };

        if (!llama_kv_side_compute(lctx, build, [&]() { set_mask(inp_mask, q0); })) {
            return false;
        }

        std::vector<float> data(n_kv*n_head_kv);

        for (int64_t i = i0; i < i1; ++i) {
            ggml_backend_tensor_get(sums[i - i0], data.data(), 0, ggml_nbytes(sums[i - i0]));

            const float scale = 1.0f/(n_query*(hparams.n_head(layers[i].il)/n_head_kv));

            for (int64_t h = 0; h < n_head_kv; ++h) {
                float * dst = scores + (i*n_head_kv + h)*n_cells;

                for (int64_t c = 0; c < n_cells; ++c) {
                    dst[c] = (b0 == 0 ? 0.0f : dst[c]) + scale*data[h*n_kv + cell[c]];
                }
            }
        }
        return true;
    };

    // as many layers, or blocks of queries of one layer, as fit into one graph; the mask is one tensor
    const int64_t n_fit  = std::max<int64_t>(1, lctx->get_gf_res_reserve()->get_max_nodes()/SCORE_TENSORS);
    const int64_t n_mask = std::max<int64_t>(1, SCORE_BLOCK_BYTES/sizeof(float)/(n_kv*n_block));

    const int64_t n_parts_fit = std::min({ n_fit, n_mask, n_parts });
    const int64_t n_layer_fit = n_parts_fit < n_parts ? 1 : std::max<int64_t>(1, n_fit/n_parts);

    for (int64_t i = 0; i < n_layer; i += n_layer_fit) {
        for (int64_t b = 0; b < n_parts; b += n_parts_fit) {
            if (!compute(i, std::min(n_layer, i + n_layer_fit), b, std::min(n_parts, b + n_parts_fit))) {
                return false;
            }
        }
    }

    return true;
}
