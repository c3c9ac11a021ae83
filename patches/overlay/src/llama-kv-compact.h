#pragma once

#include "llama.h"

#include <cstdint>
#include <utility>
#include <vector>

// What a compaction does to one llama_kv_cache: rows that move, then the cell table. Physical cells of one stream.

// rows of one layer that move or turn, none of which is read after another one of them has been written over it
struct llama_kv_compact_rows {
    std::vector<int32_t> src;   // [n_rows] cell to read
    std::vector<int32_t> dst;   // [n_rows] cell to write
    std::vector<int32_t> delta; // [n_rows] new position - old position

    bool moves = false; // any src != dst
    bool turns = false; // any delta != 0
};

struct llama_kv_compact_plan {
    uint32_t     strm   = 0;
    llama_seq_id seq_id = 0;

    std::vector<llama_kv_compact_rows> rows;  // distinct patterns: layers of a ladder share a few
    std::vector<uint32_t>              index; // [n_layer] which pattern a layer follows

    std::vector<std::pair<uint32_t, llama_pos>> pos; // cells that get a new position
    std::vector<uint32_t>                       rm;  // cells that the sequence leaves
};
