#include "llama-lacache-parts.h"

#include "llama-kv-cache.h"
#include "llama-kv-cache-iswa.h"
#include "llama-memory-hybrid.h"
#include "llama-memory-hybrid-iswa.h"
#include "llama-memory-recurrent.h"

#include <typeinfo>

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
