// llama_kv_cache: move and rotate rows within one stream of the cache, from ggml ops that every backend has
//
// get_rows -> rope -> set_rows for K, get_rows -> set_rows for V, layer by layer, in blocks of bounded size

#include "llama-kv-compact.h"
#include "llama-kv-side.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"

#include <algorithm>

// bytes of one intermediate tensor; at most three of them live at a time
static constexpr size_t COMPACT_BLOCK_BYTES = 8u*1024*1024;

// tensors of a layer in a graph, and inputs for rows that move alike: upper bounds that decide how many layers share a graph
static constexpr size_t COMPACT_TENSORS = 60;
static constexpr size_t COMPACT_INPUTS  = 4;

//
// graph
//

// the rows of a 2D cache tensor, or the rows of its n_head heads
static ggml_tensor * view_rows(ggml_context * ctx, ggml_tensor * t, int64_t n_head) {
    return ggml_view_2d(ctx, t, t->ne[0]/n_head, t->ne[1]*n_head, t->nb[1]/n_head, 0);
}

// rows as 32-bit words: copies keep every bit, whatever the type
static ggml_tensor * view_raw(ggml_context * ctx, ggml_tensor * t, int64_t n_head) {
    ggml_tensor * res = view_rows(ctx, t, n_head);

    res->type  = GGML_TYPE_F32;
    res->ne[0] = res->nb[1]/sizeof(float);
    res->nb[0] = sizeof(float);

    return res;
}

llama_kv_compact_graph llama_kv_cache::compact_graph(const llama_kv_compact_plan & plan) const {
    llama_kv_compact_graph res;

    res.inps.resize(plan.rows.size());

    int64_t n_rows  = 0;
    int64_t n_embd  = 1; // widest K or V row
    int64_t n_dims  = 0; // channels of the widest V row, or heads
    int64_t n_unit  = 1; // channels of one of them
    int64_t n_cells = 0; // widest [lo, hi)

    for (size_t p = 0; p < plan.rows.size(); ++p) {
        const auto & rows = plan.rows[p];
        auto       & inp  = res.inps[p];

        n_rows = std::max<int64_t>(n_rows, rows.src.size());

        if (v_trans && rows.moves) {
            const auto [src_min, src_max] = std::minmax_element(rows.src.begin(), rows.src.end());
            const auto [dst_min, dst_max] = std::minmax_element(rows.dst.begin(), rows.dst.end());

            inp.lo = std::min(*src_min, *dst_min)/plan.n_head;
            inp.hi = std::max(*src_max, *dst_max)/plan.n_head + 1;

            n_cells = std::max(n_cells, inp.hi - inp.lo);
        }
    }

    for (const auto & layer : layers) {
        n_embd = std::max({ n_embd, layer.k->ne[0]/plan.n_head, layer.v->ne[0]/plan.n_head });
        n_dims = std::max(n_dims, plan.n_head > 1 ? plan.n_head : layer.v->ne[0]);
        n_unit = std::max(n_unit, plan.n_head > 1 ? layer.v->ne[0]/plan.n_head : 1);
    }

    const int64_t n_block = COMPACT_BLOCK_BYTES/sizeof(float);

    res.n_rows_blk = std::max<int64_t>(1, n_block/n_embd);
    res.n_dims_blk = std::max<int64_t>(1, n_block/std::max<int64_t>(1, n_cells*n_unit));

    res.n_blocks = std::max(
            (n_rows + res.n_rows_blk - 1)/res.n_rows_blk,
            n_cells > 0 ? (n_dims + res.n_dims_blk - 1)/res.n_dims_blk : 0);

    res.rows = plan.rows;
    for (auto & rows : res.rows) {
        const int64_t n_all = rows.turns ? rows.src.size() : 0;

        for (int64_t i0 = 0; i0 < n_all; i0 += res.n_rows_blk) {
            llama_kv_compact_by_turn(rows, i0, std::min(res.n_rows_blk, n_all - i0));
        }
    }

    return res;
}

void llama_kv_cache::compact_build(
                llama_context * lctx,
                 ggml_context * ctx,
                  ggml_cgraph * gf,
  const llama_kv_compact_plan & plan,
       llama_kv_compact_graph & graph,
                      int64_t   i_block,
                       size_t   i_layer,
                       size_t   n_layer) const {
    graph.rot = nullptr;

    for (size_t p = 0; p < plan.rows.size(); ++p) {
        auto & inp = graph.inps[p];

        inp.i0 = i_block*graph.n_rows_blk;
        inp.n  = std::min<int64_t>(graph.n_rows_blk, (int64_t) plan.rows[p].src.size() - inp.i0);

        inp.src = inp.dst = inp.delta = inp.perm = nullptr;

        if (inp.n > 0) {
            inp.src   = llama_kv_side_input(ctx, GGML_TYPE_I32, inp.n);
            inp.dst   = llama_kv_side_input(ctx, GGML_TYPE_I64, inp.n);
            inp.delta = llama_kv_side_input(ctx, GGML_TYPE_I32, inp.n);
        }
        if (inp.hi > inp.lo) {
            inp.perm = llama_kv_side_input(ctx, GGML_TYPE_I32, inp.hi - inp.lo, plan.n_head);
        }
    }

    const auto move_raw = [&](ggml_tensor * t, const llama_kv_compact_inputs & inp) {
        ggml_tensor * raw = view_raw(ctx, t, plan.n_head);
        ggml_build_forward_expand(gf, ggml_set_rows(ctx, raw, ggml_get_rows(ctx, raw, inp.src), inp.dst));
    };

    const auto move_turned = [&](ggml_tensor * t, const llama_kv_compact_inputs & inp, uint32_t il) {
        ggml_tensor * rows = view_rows(ctx, t, plan.n_head);
        ggml_tensor * cur  = ggml_get_rows(ctx, rows, inp.src); // F32

        cur = llama_kv_compact_rotate(model, lctx->get_cparams(), ctx, cur, inp.delta, graph.rot, il);
        ggml_build_forward_expand(gf, ggml_set_rows(ctx, rows, cur, inp.dst));
    };

    for (size_t i = i_layer; i < i_layer + n_layer; ++i) {
        const auto & layer = layers[i];
        const auto & rows  = plan.rows [plan.index[i]];
        const auto & inp   = graph.inps[plan.index[i]];

        ggml_tensor * k = layer.k_stream[plan.strm];
        ggml_tensor * v = layer.v_stream[plan.strm];

        if (inp.n > 0) {
            if (rows.turns && llama_kv_compact_is_rotated(model, layer.il)) {
                if (attn_rot_k && !graph.rot) {
                    graph.rot = build_input_k_rot(ctx);
                }
                move_turned(k, inp, layer.il);
            } else if (rows.moves) {
                move_raw(k, inp);
            }
            if (rows.moves && !v_trans) {
                move_raw(v, inp);
            }
        }

        // transposed V [kv_size, n_embd_v]: blocks of channels, or heads, instead of cells
        const int64_t n_unit = plan.n_head > 1 ? v->ne[0]/plan.n_head : 1;

        const int64_t d0 = i_block*graph.n_dims_blk;
        const int64_t nd = std::min(graph.n_dims_blk, v->ne[0]/n_unit - d0);

        if (inp.perm && rows.moves && nd > 0) {
            const size_t nb0 = ggml_type_size(v->type);
            const size_t nb1 = nb0*get_size();

            const int64_t n_cells = inp.hi - inp.lo;

            // [n_cells, channels, heads], one permutation a head
            const int64_t n_ch = plan.n_head > 1 ? n_unit : nd;
            const int64_t n_hd = plan.n_head > 1 ? nd : 1;

            ggml_tensor * perm = ggml_view_2d(ctx, inp.perm, n_cells, n_hd, inp.perm->nb[1], plan.n_head > 1 ? d0*inp.perm->nb[1] : 0);

            ggml_tensor * vt  = ggml_view_3d(ctx, v, n_cells, n_ch, n_hd, nb1, nb1*n_ch, d0*n_unit*nb1 + inp.lo*nb0);
            ggml_tensor * cur = ggml_cont(ctx, ggml_transpose(ctx, vt));
            cur = ggml_get_rows(ctx, cur, perm); // F32 [channels, n_cells, heads]
            ggml_build_forward_expand(gf, ggml_cpy(ctx, ggml_transpose(ctx, cur), vt));
        }
    }
}

void llama_kv_cache::compact_set_inputs(const llama_kv_compact_plan & plan, const llama_kv_compact_graph & graph) const {
    if (graph.rot) {
        llama_kv_side_set(graph.rot, attn_rot_hadamard.at(graph.rot->ne[0]).data());
    }

    for (size_t p = 0; p < graph.rows.size(); ++p) {
        const auto & rows = graph.rows[p];
        const auto & inp  = graph.inps[p];

        if (inp.n > 0) {
            const std::vector<int64_t> dst(rows.dst.begin() + inp.i0, rows.dst.begin() + inp.i0 + inp.n);

            llama_kv_side_set(inp.src, rows.src.data() + inp.i0);
            llama_kv_side_set(inp.dst, dst.data());

            llama_kv_side_set(inp.delta, rows.delta.data() + inp.i0);
        }

        if (inp.perm) {
            const int64_t n_cells = inp.hi - inp.lo;

            std::vector<int32_t> perm(n_cells*plan.n_head);
            for (int64_t i = 0; i < (int64_t) perm.size(); ++i) {
                perm[i] = i % n_cells;
            }
            for (size_t i = 0; i < rows.src.size(); ++i) {
                const int64_t h = rows.dst[i] % plan.n_head;
                perm[h*n_cells + rows.dst[i]/plan.n_head - inp.lo] = rows.src[i]/plan.n_head - inp.lo;
            }
            llama_kv_side_set(inp.perm, perm.data());
        }
    }
}

bool llama_kv_cache::compact(llama_context * lctx, const llama_kv_compact_plan & plan, bool & dirty) {
    auto graph = compact_graph(plan);

    const size_t n_nodes  = lctx->get_gf_res_reserve()->get_max_nodes();
    const size_t n_inputs = std::min(n_nodes, COMPACT_INPUTS*plan.rows.size());
    const size_t n_fit    = std::max<size_t>(1, (n_nodes - n_inputs)/COMPACT_TENSORS);

    // a graph for every block of so many layers: within a graph every row is read before it is written by data
    // dependence alone, so a backend may reorder the nodes as it likes
    for (int64_t b = 0; b < graph.n_blocks; ++b) {
        for (size_t i = 0; i < layers.size(); i += n_fit) {
            const size_t n = std::min(n_fit, layers.size() - i);

            const auto build = [&](ggml_context * ctx, ggml_cgraph * gf) { compact_build(lctx, ctx, gf, plan, graph, b, i, n); };
            const auto set   = [&]() { compact_set_inputs(plan, graph); };

            if (!llama_kv_side_compute(lctx, build, set, &dirty)) {
                LLAMA_LOG_ERROR("%s: block %d, layers from %d on failed\n", __func__, (int) b, (int) i);
                return false;
            }
        }
    }

    dirty = true; // also if no row had to change
    compact_cells(plan);

    return true;
}

void llama_kv_cache::compact_cells(const llama_kv_compact_plan & plan) {
    auto & cells = v_cells[plan.strm];
    auto & head  = v_heads[plan.strm];

    query_forget();

    for (const uint32_t i : plan.rm) {
        if (cells.seq_rm(i, plan.seq_id)) {
            head = std::min(head, i);
        }
    }

    // two passes: the old and the new positions overlap
    std::vector<llama_kv_cell_ext> ext;
    for (const auto & cell : plan.pos) {
        ext.push_back(cells.ext_get(cell.first));
        cells.rm(cell.first);
    }
    for (size_t j = 0; j < plan.pos.size(); ++j) {
        const auto & [i, pos] = plan.pos[j];

        cells.pos_set(i, pos);
        cells.ext_set(i, ext[j]);
        cells.seq_add(i, plan.seq_id);
    }
}
