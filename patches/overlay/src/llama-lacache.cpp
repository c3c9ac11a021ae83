// the C API of include/llama-lacache.h: validate everything, plan once, then mutate

#include "llama-lacache.h"

#include "llama-context.h"
#include "llama-impl.h"
#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-kv-compact.h"
#include "llama-lacache-parts.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-recurrent.h"

#include <exception>
#include <typeinfo>

//
// the parts of a memory
//

llama_lacache_parts llama_lacache_get_parts(llama_memory_t mem) {
    llama_lacache_parts res;

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

int32_t llama_lacache_n_cells(const llama_lacache_parts & parts, llama_seq_id seq_id) {
    if (parts.reason || seq_id < 0 || (uint32_t) seq_id >= parts.attn->get_n_seq_max()) {
        return 0;
    }
    return parts.attn->get_cells(seq_id).seq_pos_get(seq_id).size();
}

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

static llama_compact_status compact_impl(
                 llama_context * ctx,
                  llama_seq_id   seq_id,
                 const int32_t * keep,
                        size_t   n_keep,
                       int32_t   n_layer,
                       int32_t   n_head,
                       int32_t   n_kept,
                          bool & dirty) {
    const auto parts = llama_lacache_get_parts(ctx->get_memory());

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
    if (n_kept < 1 || n_kept > n_cells) {
        return LLAMA_COMPACT_ERR_KEPT;
    }
    if (!keep || n_keep / n_kept != (size_t) n_layer*n_head || n_keep % n_kept != 0) {
        return LLAMA_COMPACT_ERR_LENGTH;
    }

    llama_kv_compact_plan plan;
    llama_kv_compact_plan plan_swa;

    auto status = llama_kv_compact_plan_attn(*parts.attn, seq_id, keep, n_layer, n_head, n_kept, plan);

    const llama_pos shift = n_kept - 1 - parts.attn->seq_pos_max(seq_id);

    if (status == LLAMA_COMPACT_OK && parts.swa) {
        status = llama_kv_compact_plan_shift(*parts.swa, seq_id, shift, plan_swa);
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
        case LLAMA_COMPACT_ERR_LENGTH:      return "the array is missing or has a wrong number of elements";
        case LLAMA_COMPACT_ERR_RANGE:       return "the plan names a cell that the sequence does not have";
        case LLAMA_COMPACT_ERR_ORDER:       return "a row of the plan is not strictly ascending";
        case LLAMA_COMPACT_ERR_SHARED:      return "a cell that would have to change also belongs to another sequence";
        case LLAMA_COMPACT_ERR_ALLOC:       return "no memory for the work buffers; nothing was changed";
        case LLAMA_COMPACT_ERR_COMPUTE:     return "the backend failed half way; a compaction removed the sequence";
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
    if (!ctx) {
        return LLAMA_COMPACT_ERR_CONTEXT;
    }

    auto status = LLAMA_COMPACT_OK;
    bool dirty  = false;

    try {
        status = compact_impl(ctx, seq_id, keep, n_keep, n_layer, n_head, n_kept, dirty);
    } catch (const std::exception & err) {
        LLAMA_LOG_ERROR("%s: %s\n", __func__, err.what());
        status = dirty ? LLAMA_COMPACT_ERR_COMPUTE : LLAMA_COMPACT_ERR_ALLOC;
    }

    if (status == LLAMA_COMPACT_ERR_COMPUTE) {
        // rows and table no longer agree: better no sequence than a wrong one
        ctx->get_memory()->seq_rm(seq_id, -1, -1);
    }
    if (status != LLAMA_COMPACT_OK) {
        LLAMA_LOG_ERROR("%s: seq_id = %d, n_layer = %d, n_head = %d, n_kept = %d, n_keep = %zu: %s\n", __func__,
                seq_id, n_layer, n_head, n_kept, n_keep, llama_compact_status_str(status));
    }

    return status;
}
