#pragma once

// The parts of a memory that the functions of include/llama-lacache.h work on.

#include "llama.h"

class llama_kv_cache;
class llama_memory_recurrent;

struct llama_lacache_parts {
    llama_kv_cache         * attn = nullptr; // full attention: follows the plan
    llama_kv_cache         * swa  = nullptr; // sliding window: keeps its cells, positions are shifted
    llama_memory_recurrent * recr = nullptr; // recurrent state: only its position is shifted

    const char * reason = nullptr; // why this memory cannot be compacted
};

llama_lacache_parts llama_lacache_get_parts(llama_memory_t mem);

// cells of seq_id in the full-attention cache; 0 if there are none
int32_t llama_lacache_n_cells(const llama_lacache_parts & parts, llama_seq_id seq_id);
