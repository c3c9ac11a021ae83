#pragma once

// How the cells of a sequence are cut for the scores of their keys, see llama-kv-score.cpp.

#include "llama.h"

#include <cstdint>
#include <vector>

// blocks of n_b cells whose positions have no gap: cell b of block a has position p_a + b
struct llama_kv_score_chunk {
    int64_t n_a = 0; // blocks
    int64_t n_b = 1; // cells per block

    std::vector<int32_t> cell;  // [n_b][n_a] physical cells
    std::vector<int32_t> order; // [n_b][n_a] the same cells counted in order of position
    std::vector<int32_t> pos;   // [n_a] p_a
    std::vector<int32_t> back;  // [n_a] -p_a
    std::vector<int32_t> own;   // [n_b] -b
};

// every cell is in one chunk of at most n_max cells, or one block; cells and positions come in order of position
std::vector<llama_kv_score_chunk> llama_kv_score_chunks(
        const std::vector<uint32_t> & cell, const std::vector<llama_pos> & pos, int64_t n_max);
