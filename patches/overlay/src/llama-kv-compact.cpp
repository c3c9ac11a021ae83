// llama_kv_cache: move and rotate rows within one stream of the cache, from ggml ops that every backend has
//
// get_rows -> rope -> set_rows for K, get_rows -> set_rows for V, layer by layer, in blocks of bounded size

#include "llama-kv-compact.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

// bytes of one intermediate tensor; at most three of them live at a time
static constexpr size_t COMPACT_BLOCK_BYTES = 8u*1024*1024;

//
// what cannot be done exactly is refused
//

// architectures whose stored K is not "the last thing that happened is a plain rotation by the cell's position"
static bool arch_k_is_not_plain(llm_arch arch) {
    switch (arch) {
        // K is scaled by learned weights after the rotation
        case LLM_ARCH_HUNYUAN_MOE:
        case LLM_ARCH_HUNYUAN_DENSE:
        case LLM_ARCH_HUNYUAN_VL:
        case LLM_ARCH_MAINCODER:
        // rotation parameters or rotated layers differ from what the shared K-shift code assumes
        case LLM_ARCH_AFMOE:
        case LLM_ARCH_COHERE2MOE:
        case LLM_ARCH_EXAONE_MOE:
        case LLM_ARCH_GEMMA4:
        case LLM_ARCH_GEMMA4_ASSISTANT:
        case LLM_ARCH_LAGUNA:
        case LLM_ARCH_LLAMA4:
        case LLM_ARCH_MAPLE:
        case LLM_ARCH_MELLUM:
        case LLM_ARCH_MUSE_GLIMMER:
        case LLM_ARCH_OLMO2:
        case LLM_ARCH_SMALLTHINKER:
        case LLM_ARCH_SPARK2_5:
            return true;
        default:
            return false;
    }
}

// hparams.has_rope() does not know the layers that these models leave without a rotation
static bool layer_is_rotated(const llama_model & model, const llama_hparams & hparams, uint32_t il) {
    switch (model.arch) {
        case LLM_ARCH_BAICHUAN: return model.type == LLM_TYPE_7B; // the 13B model has ALiBi instead
        case LLM_ARCH_SMOLLM3: return (il + 1) % hparams.n_no_rope_layer_step != 0;
        case LLM_ARCH_COHERE2: return hparams.is_swa(il);
        case LLM_ARCH_EXAONE4: return hparams.is_swa(il) || hparams.swa_type == LLAMA_SWA_TYPE_NONE;
        default:               return hparams.rope_type != LLAMA_ROPE_TYPE_NONE && hparams.has_rope(il);
    }
}

// frequency factors that a model has loaded but does not pass to its own rotation
static ggml_tensor * rope_factors(const llama_model & model, const llama_cparams & cparams, uint32_t il) {
    switch (model.arch) {
        case LLM_ARCH_COGVLM:
        case LLM_ARCH_FALCON_H1:
        case LLM_ARCH_PANGU_EMBED: return nullptr;
        default:                   return model.get_rope_factors(cparams, il);
    }
}

const char * llama_kv_cache::compact_reason() const {
    if (other) {
        return "its KV cache is shared with another context";
    }
    if (layers.empty()) {
        return "it has no layer with full attention, so there is nothing to compact";
    }
    if (hparams.is_mla() || hparams.n_lora_kv > 0) {
        return "it stores compressed keys (MLA), which cannot be re-rotated row by row";
    }
    if (hparams.n_pos_per_embd() > 1) {
        return "it uses multi-dimensional positions (M-RoPE), which cannot be renumbered";
    }
    if (has_cell_ext()) {
        return "its input depends on the exact previous tokens (n-gram embeddings), which compaction drops";
    }
    if (model.pos_embd) {
        return "its positions are learned embeddings that are baked into keys and values";
    }
    if (!get_can_shift() || arch_k_is_not_plain(model.arch)) {
        return "its keys are not a plain rotation by the position, so they cannot be re-rotated exactly";
    }
    if (swa_type == LLAMA_SWA_TYPE_CHUNKED) {
        return "it attends in fixed chunks of positions, whose borders would move";
    }
    for (const auto & layer : layers) {
        if (!layer.v) {
            return "it stores no separate values";
        }
        // rows are copied as 32-bit words
        if (layer.k->nb[1] % sizeof(float) != 0 || (!v_trans && layer.v->nb[1] % sizeof(float) != 0)) {
            return "its KV rows are not a multiple of 4 bytes with this KV type; use f16";
        }
    }
    return nullptr;
}

//
// graph
//

// the rows of a 2D cache tensor as 32-bit words: copies keep every bit, whatever the type
static ggml_tensor * view_raw(ggml_context * ctx, ggml_tensor * t) {
    ggml_tensor * res = ggml_view_2d(ctx, t, t->ne[0], t->ne[1], t->nb[1], 0);

    res->type  = GGML_TYPE_F32;
    res->ne[0] = t->nb[1]/sizeof(float);
    res->nb[0] = sizeof(float);
    res->nb[1] = t->nb[1];
    res->nb[2] = t->nb[1]*t->ne[1];
    res->nb[3] = res->nb[2];

    return res;
}

static ggml_tensor * new_input(ggml_context * ctx, ggml_type type, int64_t ne0, int64_t ne1 = 1) {
    ggml_tensor * res = ggml_new_tensor_2d(ctx, type, ne0, ne1);
    ggml_set_input(res);
    return res;
}

static ggml_tensor * rotate_rows(
        const llama_model   & model,
        const llama_hparams & hparams,
        const llama_cparams & cparams,
               ggml_context * ctx,
                ggml_tensor * cur,  // F32 [n_embd_k_gqa, n]
                ggml_tensor * delta,
                ggml_tensor * rot,
                   uint32_t   il) {
    const int64_t n = cur->ne[1];

    // YaRN scales the magnitude once, when K is first written; a later rotation must not scale it again.
    // ggml multiplies by 1 + 0.1*ln(1/freq_scale) whenever ext_factor != 0
    const float freq_scale  = model.get_rope_freq_scale(cparams, il);
    const float attn_factor = cparams.yarn_ext_factor != 0.0f ? 1.0f/(1.0f + 0.1f*logf(1.0f/freq_scale)) : 1.0f;

    cur = ggml_reshape_3d(ctx, cur, hparams.n_embd_head_k(il), hparams.n_head_kv(il), n);

    // quantized K is stored in a Hadamard-rotated basis; the matrix is its own inverse
    if (rot) {
        cur = llama_mul_mat_hadamard(ctx, cur, rot);
    }

    cur = ggml_rope_ext_inplace(ctx, cur, delta, rope_factors(model, cparams, il),
            hparams.n_rot(il), hparams.rope_type, cparams.n_ctx_orig_yarn,
            model.get_rope_freq_base(cparams, il), freq_scale,
            cparams.yarn_ext_factor, attn_factor, cparams.yarn_beta_fast, cparams.yarn_beta_slow);

    if (rot) {
        cur = llama_mul_mat_hadamard(ctx, cur, rot);
    }

    return ggml_reshape_2d(ctx, cur, cur->ne[0]*cur->ne[1], n);
}

llama_kv_compact_graph llama_kv_cache::compact_graph(const llama_kv_compact_plan & plan) const {
    llama_kv_compact_graph res;

    res.inps.resize(plan.rows.size());

    int64_t n_rows  = 0;
    int64_t n_embd  = 1; // widest K or V row
    int64_t n_dims  = 0; // widest V row
    int64_t n_cells = 0; // widest [lo, hi)

    for (size_t p = 0; p < plan.rows.size(); ++p) {
        const auto & rows = plan.rows[p];
        auto       & inp  = res.inps[p];

        n_rows = std::max<int64_t>(n_rows, rows.src.size());

        if (v_trans && rows.moves) {
            const auto [src_min, src_max] = std::minmax_element(rows.src.begin(), rows.src.end());
            const auto [dst_min, dst_max] = std::minmax_element(rows.dst.begin(), rows.dst.end());

            inp.lo = std::min(*src_min, *dst_min);
            inp.hi = std::max(*src_max, *dst_max) + 1;

            n_cells = std::max(n_cells, inp.hi - inp.lo);
        }
    }

    for (const auto & layer : layers) {
        n_embd = std::max({ n_embd, layer.k->ne[0], layer.v->ne[0] });
        n_dims = std::max(n_dims, layer.v->ne[0]);
    }

    const int64_t n_block = COMPACT_BLOCK_BYTES/sizeof(float);

    res.n_rows_blk = std::max<int64_t>(1, n_block/n_embd);
    res.n_dims_blk = std::max<int64_t>(1, n_block/std::max<int64_t>(1, n_cells));

    res.n_blocks = std::max(
            (n_rows + res.n_rows_blk - 1)/res.n_rows_blk,
            n_cells > 0 ? (n_dims + res.n_dims_blk - 1)/res.n_dims_blk : 0);

    return res;
}

ggml_cgraph * llama_kv_cache::compact_build(
                llama_context * lctx,
  const llama_kv_compact_plan & plan,
       llama_kv_compact_graph & graph,
                      int64_t   i_block) const {
    ggml_backend_sched_reset(lctx->get_sched());

    auto * res = lctx->get_gf_res_reserve();
    res->reset();

    auto * ctx = res->get_ctx();
    auto * gf  = res->get_gf();

    graph.rot = nullptr;

    for (size_t p = 0; p < plan.rows.size(); ++p) {
        auto & inp = graph.inps[p];

        inp.i0 = i_block*graph.n_rows_blk;
        inp.n  = std::min<int64_t>(graph.n_rows_blk, (int64_t) plan.rows[p].src.size() - inp.i0);

        inp.src = inp.dst = inp.delta = inp.perm = nullptr;

        if (inp.n > 0) {
            inp.src   = new_input(ctx, GGML_TYPE_I32, inp.n);
            inp.dst   = new_input(ctx, GGML_TYPE_I64, inp.n);
            inp.delta = new_input(ctx, GGML_TYPE_I32, inp.n);
        }
        if (inp.hi > inp.lo) {
            inp.perm = new_input(ctx, GGML_TYPE_I32, inp.hi - inp.lo);
        }
    }

    const auto move_raw = [&](ggml_tensor * t, const llama_kv_compact_inputs & inp) {
        ggml_tensor * raw = view_raw(ctx, t);
        ggml_build_forward_expand(gf, ggml_set_rows(ctx, raw, ggml_get_rows(ctx, raw, inp.src), inp.dst));
    };

    for (size_t i = 0; i < layers.size(); ++i) {
        const auto & layer = layers[i];
        const auto & rows  = plan.rows [plan.index[i]];
        const auto & inp   = graph.inps[plan.index[i]];

        ggml_tensor * k = layer.k_stream[plan.strm];
        ggml_tensor * v = layer.v_stream[plan.strm];

        if (inp.n > 0) {
            if (rows.turns && layer_is_rotated(model, hparams, layer.il)) {
                if (attn_rot_k && !graph.rot) {
                    graph.rot = build_input_k_rot(ctx);
                }
                ggml_tensor * cur = ggml_get_rows(ctx, k, inp.src);
                cur = rotate_rows(model, hparams, lctx->get_cparams(), ctx, cur, inp.delta, graph.rot, layer.il);
                ggml_build_forward_expand(gf, ggml_set_rows(ctx, k, cur, inp.dst));
            } else if (rows.moves) {
                move_raw(k, inp);
            }
            if (rows.moves && !v_trans) {
                move_raw(v, inp);
            }
        }

        // transposed V [kv_size, n_embd_v]: blocks of channels instead of cells
        const int64_t d0 = i_block*graph.n_dims_blk;
        const int64_t nd = std::min(graph.n_dims_blk, v->ne[0] - d0);

        if (inp.perm && rows.moves && nd > 0) {
            const size_t nb0 = ggml_type_size(v->type);
            const size_t nb1 = nb0*get_size();

            ggml_tensor * vt  = ggml_view_2d(ctx, v, inp.hi - inp.lo, nd, nb1, d0*nb1 + inp.lo*nb0);
            ggml_tensor * cur = ggml_cont(ctx, ggml_transpose(ctx, vt));
            cur = ggml_get_rows(ctx, cur, inp.perm); // F32 [nd, hi - lo]
            ggml_build_forward_expand(gf, ggml_cpy(ctx, ggml_transpose(ctx, cur), vt));
        }
    }

    return gf;
}

void llama_kv_cache::compact_set_inputs(const llama_kv_compact_plan & plan, const llama_kv_compact_graph & graph) const {
    // an input that no node reads has no buffer
    const auto set = [](ggml_tensor * t, const void * data) {
        if (t && t->buffer) {
            ggml_backend_tensor_set(t, data, 0, ggml_nbytes(t));
        }
    };

    if (graph.rot) {
        set(graph.rot, attn_rot_hadamard.at(graph.rot->ne[0]).data());
    }

    for (size_t p = 0; p < plan.rows.size(); ++p) {
        const auto & rows = plan.rows[p];
        const auto & inp  = graph.inps[p];

        if (inp.n > 0) {
            const std::vector<int64_t> dst(rows.dst.begin() + inp.i0, rows.dst.begin() + inp.i0 + inp.n);

            set(inp.src,   rows.src.data()   + inp.i0);
            set(inp.delta, rows.delta.data() + inp.i0);
            set(inp.dst,   dst.data());
        }

        if (inp.perm) {
            std::vector<int32_t> perm(inp.hi - inp.lo);
            std::iota(perm.begin(), perm.end(), 0);
            for (size_t i = 0; i < rows.src.size(); ++i) {
                perm[rows.dst[i] - inp.lo] = rows.src[i] - inp.lo;
            }
            set(inp.perm, perm.data());
        }
    }
}

bool llama_kv_cache::compact(llama_context * lctx, const llama_kv_compact_plan & plan, bool & dirty) {
    auto * sched = lctx->get_sched();
    auto   graph = compact_graph(plan);

    // one graph per block: within a graph every row is read before it is written by data dependence alone,
    // so a backend may reorder the nodes as it likes
    for (int64_t b = 0; b < graph.n_blocks; ++b) {
        auto * gf = compact_build(lctx, plan, graph, b);

        if (ggml_graph_n_nodes(gf) == 0) {
            continue;
        }

        // plan the buffers anew: ggml keeps the plan of the previous graph when the number of nodes and leafs is the
        // same, and does not look whether the leafs come in the same order
        bool ok = ggml_backend_sched_reserve(sched, gf);

        if (ok) {
            gf = compact_build(lctx, plan, graph, b); // reserving has split the first one
            ok = ggml_backend_sched_alloc_graph(sched, gf);
        }
        if (!ok) {
            LLAMA_LOG_ERROR("%s: failed to allocate the compute graph of block %d\n", __func__, (int) b);
            return false;
        }

        compact_set_inputs(plan, graph);

        dirty = true;

        if (lctx->graph_compute(gf, true) != GGML_STATUS_SUCCESS) {
            LLAMA_LOG_ERROR("%s: failed to compute block %d\n", __func__, (int) b);
            return false;
        }
    }

    compact_cells(plan);

    return true;
}

void llama_kv_cache::compact_cells(const llama_kv_compact_plan & plan) {
    auto & cells = v_cells[plan.strm];
    auto & head  = v_heads[plan.strm];

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
