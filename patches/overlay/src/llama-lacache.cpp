// the C API of include/llama-lacache.h: validate everything, plan once, then mutate

#include "llama-lacache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-compact.h"
#include "llama-lacache-parts.h"
#include "llama-memory-recurrent.h"

#include <algorithm>
#include <exception>
#include <functional>

//
// the call
//

void llama_context::compact_begin(bool graph_changed) {
    sched_need_reserve |= graph_changed;

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

// plans of both caches of a memory, and by how much the positions of its other parts change
struct compact_plans {
    llama_kv_compact_plan attn;
    llama_kv_compact_plan swa;

    llama_pos first = 0; // older window cells are freed
    llama_pos shift = 0;
};

// what every plan must agree with; box = [n_head, n] numbers of one layer
static llama_compact_status check_box(
     const llama_lacache_parts & parts,
                  llama_seq_id   seq_id,
                 const int32_t * data,
                        size_t   n_data,
                       int32_t   n_layer,
                       int32_t   n_head,
                       int32_t   n) {
    if (parts.reason) {
        return LLAMA_COMPACT_ERR_UNSUPPORTED;
    }

    const int32_t n_cells = llama_lacache_n_cells(parts, seq_id);

    if (n_cells == 0) {
        return LLAMA_COMPACT_ERR_SEQ;
    }
    if (n_layer < 1 || (size_t) n_layer != parts.attn->get_layer_ids().size()) {
        return LLAMA_COMPACT_ERR_LAYERS;
    }
    if (n_head != 1 && (n_head != parts.attn->n_head_kv() || parts.attn->compact_head_reason())) {
        return LLAMA_COMPACT_ERR_HEADS;
    }
    if (n < 1 || n > n_cells) {
        return LLAMA_COMPACT_ERR_KEPT;
    }
    if (!data || n_data / n != (size_t) n_layer*n_head || n_data % n != 0) {
        return LLAMA_COMPACT_ERR_LENGTH;
    }

    return LLAMA_COMPACT_OK;
}

// the parts without a plan of the caller's: window layers and recurrent states follow the newest position
static llama_compact_status plan_others(const llama_lacache_parts & parts, llama_seq_id seq_id, compact_plans & plans) {
    auto status = LLAMA_COMPACT_OK;

    if (parts.swa) {
        status = llama_kv_compact_plan_shift(*parts.swa, seq_id, plans.first, plans.shift, plans.swa);
    }
    if (status == LLAMA_COMPACT_OK && parts.recr && plans.shift != 0) {
        for (const auto & cell : parts.recr->cells) {
            if (cell.has_seq_id(seq_id) && cell.seq_id.size() > 1) {
                status = LLAMA_COMPACT_ERR_SHARED;
            }
        }
    }

    return status;
}

static llama_compact_status execute(
                 llama_context * ctx,
     const llama_lacache_parts & parts,
                  llama_seq_id   seq_id,
           const compact_plans & plans,
                          bool & dirty) {
    // a shift or a stream copy that is still queued goes first: it does not change the table, only the rows
    ctx->memory_update(false);
    ctx->compact_begin();

    if (!parts.attn->compact(ctx, plans.attn, dirty) || (parts.swa && !parts.swa->compact(ctx, plans.swa, dirty))) {
        return dirty ? LLAMA_COMPACT_ERR_COMPUTE : LLAMA_COMPACT_ERR_ALLOC;
    }
    if (parts.recr) {
        parts.recr->seq_add(seq_id, -1, -1, plans.shift);
    }

    ctx->synchronize();

    return LLAMA_COMPACT_OK;
}

// make the plans, then carry them out; no exception leaves, and what is refused is logged
static int32_t call(
                    const char * name,
                 llama_context * ctx,
                  llama_seq_id   seq_id,
        const std::function<llama_compact_status(const llama_lacache_parts & parts, compact_plans & plans)> & plan) {
    if (!ctx) {
        return LLAMA_COMPACT_ERR_CONTEXT;
    }

    auto status = LLAMA_COMPACT_OK;
    bool dirty  = false;

    try {
        const auto parts = llama_lacache_get_parts(ctx->get_memory());

        compact_plans plans;

        status = plan(parts, plans);

        if (status == LLAMA_COMPACT_OK) {
            status = plan_others(parts, seq_id, plans);
        }
        if (status == LLAMA_COMPACT_OK) {
            status = execute(ctx, parts, seq_id, plans, dirty);
        }
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", name, err.what());
        status = dirty ? LLAMA_COMPACT_ERR_COMPUTE : LLAMA_COMPACT_ERR_ALLOC;
    }

    if (status == LLAMA_COMPACT_ERR_COMPUTE) {
        // rows and table no longer agree: better no sequence than a wrong one
        ctx->get_memory()->seq_rm(seq_id, -1, -1);
    }
    if (status != LLAMA_COMPACT_OK) {
        LLAMA_LOG_ERROR("%s: seq_id = %d: %s\n", name, seq_id, llama_compact_status_str(status));
    }

    return status;
}

static int32_t compact(
                    const char * name,
                 llama_context * ctx,
                  llama_seq_id   seq_id,
                 const int32_t * keep,
                        size_t   n_keep,
                       int32_t   n_layer,
                       int32_t   n_head,
                       int32_t   n_kept,
                          bool   thin) {
    return call(name, ctx, seq_id, [&](const llama_lacache_parts & parts, compact_plans & plans) {
        const auto status = check_box(parts, seq_id, keep, n_keep, n_layer, n_head, n_kept);
        if (status != LLAMA_COMPACT_OK) {
            return status;
        }

        plans.first = parts.attn->seq_pos_max(seq_id) - (n_kept - 1); // where the table begins afterwards
        plans.shift = thin ? 0 : -plans.first;

        return llama_kv_compact_plan_attn(*parts.attn, seq_id, keep, n_layer, n_head, n_kept, thin, plans.attn);
    });
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
        case LLAMA_COMPACT_ERR_LENGTH:      return "the array is missing or has a wrong number of elements";
        case LLAMA_COMPACT_ERR_RANGE:       return "the plan names a cell that the sequence does not have, or an impossible turn or position";
        case LLAMA_COMPACT_ERR_ORDER:       return "a row of the plan is not strictly ascending";
        case LLAMA_COMPACT_ERR_SHARED:      return "a cell that would have to change also belongs to another sequence";
        case LLAMA_COMPACT_ERR_ALLOC:       return "no memory for the work buffers; nothing was changed";
        case LLAMA_COMPACT_ERR_COMPUTE:     return "the backend failed half way; a sequence that it was changing was removed";
        case LLAMA_COMPACT_ERR_HEADS:       return "the KV heads of this memory cannot be treated one by one, or there are not so many";
        case LLAMA_COMPACT_ERR_QUERY:       return "queries cannot be recorded, or not so many, or none were recorded";
        default:                            return "unknown status";
    }
}

const char * llama_memory_compact_reason(const llama_context * ctx) {
    return ctx ? llama_lacache_get_parts(ctx->get_memory()).reason : "there is no context";
}

int32_t llama_memory_compact_n_layer(const llama_context * ctx) {
    const auto parts = llama_lacache_get_parts(ctx ? ctx->get_memory() : nullptr);

    return parts.reason ? 0 : parts.attn->get_layer_ids().size();
}

int32_t llama_memory_seq_n_cells(const llama_context * ctx, llama_seq_id seq_id) {
    return llama_lacache_n_cells(llama_lacache_get_parts(ctx ? ctx->get_memory() : nullptr), seq_id);
}

int32_t llama_memory_seq_compact(
        llama_context * ctx,
         llama_seq_id   seq_id,
        const int32_t * keep,
               size_t   n_keep,
              int32_t   n_layer,
              int32_t   n_head,
              int32_t   n_kept) {
    return compact(__func__, ctx, seq_id, keep, n_keep, n_layer, n_head, n_kept, false);
}

int32_t llama_memory_seq_thin(
        llama_context * ctx,
         llama_seq_id   seq_id,
        const int32_t * keep,
               size_t   n_keep,
              int32_t   n_layer,
              int32_t   n_head,
              int32_t   n_kept) {
    return compact(__func__, ctx, seq_id, keep, n_keep, n_layer, n_head, n_kept, true);
}

int32_t llama_memory_seq_turn(
        llama_context * ctx,
         llama_seq_id   seq_id,
        const int32_t * turn,
               size_t   n_turn,
              int32_t   n_layer,
              int32_t   n_head,
            llama_pos   shift) {
    return call(__func__, ctx, seq_id, [&](const llama_lacache_parts & parts, compact_plans & plans) {
        const int32_t n_cells = llama_lacache_n_cells(parts, seq_id);

        const auto status = check_box(parts, seq_id, turn, n_turn, n_layer, n_head, n_cells);
        if (status != LLAMA_COMPACT_OK) {
            return status;
        }

        plans.first = -std::max(shift, -LLAMA_LACACHE_TURN_MAX); // what is beyond it is refused here:
        plans.shift = shift;

        return llama_kv_compact_plan_turn(*parts.attn, seq_id, turn, n_layer, n_head, shift, plans.attn);
    });
}
