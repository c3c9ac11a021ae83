// the C API of include/llama-lacache.h: validate everything, plan once, then mutate

#include "llama-lacache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-compact.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-recurrent.h"

#include <algorithm>
#include <exception>
#include <typeinfo>

//
// the parts of a memory
//

struct compact_parts {
    llama_kv_cache         * attn = nullptr; // full attention: follows the plan
    llama_kv_cache         * swa  = nullptr; // sliding window: keeps its cells, positions are shifted
    llama_memory_recurrent * recr = nullptr; // recurrent state: only its position is shifted

    const char * reason = nullptr; // why this memory cannot be compacted
};

static compact_parts compact_get_parts(llama_memory_i * mem) {
    compact_parts res;

    if (!mem) {
        res.reason = "it has no KV cache (an encoder or a diffusion model)";
        return res;
    }

    llama_kv_cache_iswa * iswa = nullptr;

    // exact types: a derived class may hold more than its base knows of
    const auto & type = typeid(*mem);

    if (type == typeid(llama_kv_cache)) {
        res.attn = static_cast<llama_kv_cache *>(mem);
    } else if (type == typeid(llama_kv_cache_iswa)) {
        iswa = static_cast<llama_kv_cache_iswa *>(mem);
    } else if (type == typeid(llama_memory_hybrid)) {
        res.attn = static_cast<llama_memory_hybrid *>(mem)->get_mem_attn();
        res.recr = static_cast<llama_memory_hybrid *>(mem)->get_mem_recr();
    } else if (type == typeid(llama_memory_hybrid_iswa)) {
        iswa     = static_cast<llama_memory_hybrid_iswa *>(mem)->get_mem_attn();
        res.recr = static_cast<llama_memory_hybrid_iswa *>(mem)->get_mem_recr();
    } else if (type == typeid(llama_memory_recurrent)) {
        res.reason = "it is purely recurrent: its state has a constant size and needs no compaction";
    } else {
        res.reason = "its KV cache is of a kind (sparse attention, indexer) that has no compaction yet";
    }

    if (iswa) {
        res.attn = iswa->get_base();
        res.swa  = iswa->get_swa();
    }
    if (res.attn && !res.reason) {
        res.reason = res.attn->compact_reason();
    }
    if (res.swa && !res.reason && !res.swa->get_layer_ids().empty()) {
        res.reason = res.swa->compact_reason();
    }

    return res;
}

static int32_t compact_seq_n_cells(const compact_parts & parts, llama_seq_id seq_id) {
    if (parts.reason || seq_id < 0 || (uint32_t) seq_id >= parts.attn->get_n_seq_max()) {
        return 0;
    }
    return parts.attn->get_cells(seq_id).seq_pos_get(seq_id).size();
}

//
// plans
//

static bool is_shared(const llama_kv_cells & cells, uint32_t i) {
    return cells.seq_count(i) > 1;
}

static llama_compact_status plan_attn(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                 const int32_t * keep,
                       int32_t   n_layer,
                       int32_t   n_kept,
         llama_kv_compact_plan & plan) {
    const auto & cells = kv.get_cells(seq_id);

    // cells of the sequence in order of position; the plan counts in this order
    std::vector<uint32_t>  cell;
    std::vector<llama_pos> pos;
    for (const auto & pc : cells.seq_pos_get(seq_id)) {
        pos .push_back(pc.first);
        cell.push_back(pc.second);
    }

    const int32_t n_cells = cell.size();

    plan.strm   = kv.get_stream(seq_id);
    plan.seq_id = seq_id;

    std::vector<const int32_t *> first; // first row of each distinct pattern
    int32_t i_min = n_kept;             // cells below it stay as they are in every layer

    for (int32_t il = 0; il < n_layer; ++il) {
        const int32_t * row = keep + (size_t) il*n_kept;

        const auto it = std::find_if(first.begin(), first.end(), [&](const int32_t * other) {
            return std::equal(row, row + n_kept, other);
        });

        plan.index.push_back(it - first.begin());

        if (it != first.end()) {
            continue;
        }

        for (int32_t i = 0; i < n_kept; ++i) {
            if (row[i] < 0 || row[i] >= n_cells) {
                return LLAMA_COMPACT_ERR_RANGE;
            }
            if (i > 0 && row[i] <= row[i - 1]) {
                return LLAMA_COMPACT_ERR_ORDER;
            }
        }

        llama_kv_compact_rows rows;

        // row[i] >= i, so a block of destinations never holds a source of a later block
        for (int32_t i = 0; i < n_kept; ++i) {
            const int32_t delta = i - pos[row[i]];

            if (row[i] == i && delta == 0) {
                continue;
            }

            i_min = std::min(i_min, i);

            rows.src  .push_back(cell[row[i]]);
            rows.dst  .push_back(cell[i]);
            rows.delta.push_back(delta);

            rows.moves |= row[i] != i;
            rows.turns |= delta != 0;
        }

        first.push_back(row);
        plan.rows.push_back(std::move(rows));
    }

    for (int32_t i = i_min; i < n_kept; ++i) {
        if (is_shared(cells, cell[i])) {
            return LLAMA_COMPACT_ERR_SHARED;
        }
        if (pos[i] != i) {
            plan.pos.emplace_back(cell[i], i);
        }
    }
    for (int32_t i = n_kept; i < n_cells; ++i) {
        plan.rm.push_back(cell[i]);
    }

    return LLAMA_COMPACT_OK;
}

static llama_compact_status plan_shift(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                     llama_pos   shift,
         llama_kv_compact_plan & plan) {
    const auto & cells = kv.get_cells(seq_id);

    plan.strm   = kv.get_stream(seq_id);
    plan.seq_id = seq_id;
    plan.rows.resize(1);
    plan.index.resize(kv.get_layer_ids().size(), 0);

    auto & rows = plan.rows[0];
    rows.turns = shift != 0;

    if (shift == 0) {
        return LLAMA_COMPACT_OK;
    }

    for (const auto & pc : cells.seq_pos_get(seq_id)) {
        if (pc.first + shift < 0) {
            plan.rm.push_back(pc.second);
            continue;
        }
        if (is_shared(cells, pc.second)) {
            return LLAMA_COMPACT_ERR_SHARED;
        }

        rows.src  .push_back(pc.second);
        rows.dst  .push_back(pc.second);
        rows.delta.push_back(shift);

        plan.pos.emplace_back(pc.second, pc.first + shift);
    }

    return LLAMA_COMPACT_OK;
}

void llama_context::compact_begin() {
    sched_reserve();
    synchronize();

    // a graph that shares the scheduler with the stored ones overwrites their buffers: they must not be reused
    for (auto & res : gf_res_prev) {
        if (res) {
            res->reset();
        }
    }
    gf_res_prev_active = nullptr;
}

static llama_compact_status compact_impl(
                 llama_context * ctx,
                  llama_seq_id   seq_id,
                 const int32_t * keep,
                        size_t   n_keep,
                       int32_t   n_layer,
                       int32_t   n_kept,
                          bool & dirty) {
    const auto parts = compact_get_parts(ctx->get_memory());

    if (parts.reason) {
        return LLAMA_COMPACT_ERR_UNSUPPORTED;
    }

    const int32_t n_cells = compact_seq_n_cells(parts, seq_id);

    if (n_cells == 0) {
        return LLAMA_COMPACT_ERR_SEQ;
    }
    if (n_layer < 1 || (size_t) n_layer != parts.attn->get_layer_ids().size()) {
        return LLAMA_COMPACT_ERR_LAYERS;
    }
    if (n_kept < 1 || n_kept > n_cells) {
        return LLAMA_COMPACT_ERR_KEPT;
    }
    if (!keep || n_keep / n_kept != (size_t) n_layer || n_keep % n_kept != 0) {
        return LLAMA_COMPACT_ERR_LENGTH;
    }

    llama_kv_compact_plan plan;
    llama_kv_compact_plan plan_swa;

    auto status = plan_attn(*parts.attn, seq_id, keep, n_layer, n_kept, plan);

    const llama_pos shift = n_kept - 1 - parts.attn->seq_pos_max(seq_id);

    if (status == LLAMA_COMPACT_OK && parts.swa) {
        status = plan_shift(*parts.swa, seq_id, shift, plan_swa);
    }
    if (status == LLAMA_COMPACT_OK && parts.recr && shift != 0) {
        for (const auto & cell : parts.recr->cells) {
            if (cell.has_seq_id(seq_id) && cell.seq_id.size() > 1) {
                status = LLAMA_COMPACT_ERR_SHARED;
            }
        }
    }
    if (status != LLAMA_COMPACT_OK) {
        return status;
    }

    // a shift or a stream copy that is still queued goes first: it does not change the table, only the rows
    ctx->memory_update(false);
    ctx->compact_begin();

    if (!parts.attn->compact(ctx, plan, dirty) || (parts.swa && !parts.swa->compact(ctx, plan_swa, dirty))) {
        return dirty ? LLAMA_COMPACT_ERR_COMPUTE : LLAMA_COMPACT_ERR_ALLOC;
    }
    if (parts.recr) {
        parts.recr->seq_add(seq_id, -1, -1, shift);
    }

    ctx->synchronize();

    return LLAMA_COMPACT_OK;
}

//
// C API
//

int32_t llama_lacache_abi(void) {
    return LLAMA_LACACHE_ABI;
}

const char * llama_compact_status_str(int32_t status) {
    switch (status) {
        case LLAMA_COMPACT_OK:              return "ok";
        case LLAMA_COMPACT_ERR_CONTEXT:     return "no context was given";
        case LLAMA_COMPACT_ERR_UNSUPPORTED: return "the memory of this model cannot be compacted exactly";
        case LLAMA_COMPACT_ERR_SEQ:         return "the sequence does not exist or is empty";
        case LLAMA_COMPACT_ERR_LAYERS:      return "the plan has a wrong number of layers";
        case LLAMA_COMPACT_ERR_KEPT:        return "the plan keeps no cell or more cells than there are";
        case LLAMA_COMPACT_ERR_LENGTH:      return "the plan is missing or has a wrong number of elements";
        case LLAMA_COMPACT_ERR_RANGE:       return "the plan names a cell that the sequence does not have";
        case LLAMA_COMPACT_ERR_ORDER:       return "a row of the plan is not strictly ascending";
        case LLAMA_COMPACT_ERR_SHARED:      return "a cell that would have to change also belongs to another sequence";
        case LLAMA_COMPACT_ERR_ALLOC:       return "no memory for the work buffers; nothing was changed";
        case LLAMA_COMPACT_ERR_COMPUTE:     return "the backend failed half way; the sequence was removed";
        default:                            return "unknown status";
    }
}

const char * llama_memory_compact_reason(const llama_context * ctx) {
    return ctx ? compact_get_parts(ctx->get_memory()).reason : "there is no context";
}

int32_t llama_memory_compact_n_layer(const llama_context * ctx) {
    const auto parts = compact_get_parts(ctx ? ctx->get_memory() : nullptr);

    return parts.reason ? 0 : parts.attn->get_layer_ids().size();
}

int32_t llama_memory_seq_n_cells(const llama_context * ctx, llama_seq_id seq_id) {
    return compact_seq_n_cells(compact_get_parts(ctx ? ctx->get_memory() : nullptr), seq_id);
}

int32_t llama_memory_seq_compact(
        llama_context * ctx,
         llama_seq_id   seq_id,
        const int32_t * keep,
               size_t   n_keep,
              int32_t   n_layer,
              int32_t   n_kept) {
    if (!ctx) {
        return LLAMA_COMPACT_ERR_CONTEXT;
    }

    auto status = LLAMA_COMPACT_OK;
    bool dirty  = false;

    try {
        status = compact_impl(ctx, seq_id, keep, n_keep, n_layer, n_kept, dirty);
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        status = dirty ? LLAMA_COMPACT_ERR_COMPUTE : LLAMA_COMPACT_ERR_ALLOC;
    }

    if (status == LLAMA_COMPACT_ERR_COMPUTE) {
        // rows and table no longer agree: better no sequence than a wrong one
        ctx->get_memory()->seq_rm(seq_id, -1, -1);
    }
    if (status != LLAMA_COMPACT_OK) {
        LLAMA_LOG_ERROR("%s: seq_id = %d, n_layer = %d, n_kept = %d, n_keep = %zu: %s\n", __func__,
                seq_id, n_layer, n_kept, n_keep, llama_compact_status_str(status));
    }

    return status;
}
