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

// the inputs of one pattern in the graph of one block
struct llama_kv_compact_inputs {
    int64_t i0 = 0; // rows [i0, i0 + n) of the pattern
    int64_t n  = 0;

    ggml_tensor * src   = nullptr; // I32 [n]
    ggml_tensor * dst   = nullptr; // I64 [n]
    ggml_tensor * delta = nullptr; // I32 [n]

    // transposed V: cells [lo, hi) are rewritten in order
    int64_t lo = 0;
    int64_t hi = 0;

    ggml_tensor * perm = nullptr; // I32 [hi - lo]
};

// how a plan is cut into blocks, and what the graph of the current block reads
struct llama_kv_compact_graph {
    int64_t n_blocks   = 0;
    int64_t n_rows_blk = 0; // cells per block
    int64_t n_dims_blk = 0; // channels of transposed V per block

    std::vector<llama_kv_compact_inputs> inps; // one per pattern

    ggml_tensor * rot = nullptr; // Hadamard matrix of quantized K
};
