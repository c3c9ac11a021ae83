#pragma once

#include "llama.h"
#include "llama-lacache.h"

#include <cstdint>
#include <utility>
#include <vector>

class llama_kv_cache;
struct llama_cparams;
struct llama_model;

// What a compaction does to one llama_kv_cache: rows that move, then the cell table. Physical cells of one stream.

// rows of one layer that move or turn, none of which is read after another one of them has been written over it
// where every KV head has its own plan, a row is that of one head: number cell*n_head + head
struct llama_kv_compact_rows {
    std::vector<int32_t> src;   // [n_rows] row to read
    std::vector<int32_t> dst;   // [n_rows] row to write
    std::vector<int32_t> delta; // [n_rows] new position - old position

    bool moves = false; // any src != dst
    bool turns = false; // any delta != 0
};

struct llama_kv_compact_plan {
    uint32_t     strm   = 0;
    llama_seq_id seq_id = 0;
    int32_t      n_head = 1; // rows per cell

    std::vector<llama_kv_compact_rows> rows;  // distinct patterns: layers of a ladder share a few
    std::vector<uint32_t>              index; // [n_layer] which pattern a layer follows

    std::vector<std::pair<uint32_t, llama_pos>> pos; // cells that get a new position
    std::vector<uint32_t>                       rm;  // cells that the sequence leaves
};

// full attention: keep [n_layer, n_head, n_kept] names cells of the sequence in order of position, and rows are turned
// to their new position; or, if they are only to be thinned, cells are numbered backwards from the newest one
llama_compact_status llama_kv_compact_plan_attn(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                 const int32_t * keep,
                       int32_t   n_layer,
                       int32_t   n_head,
                       int32_t   n_kept,
                          bool   thin,
         llama_kv_compact_plan & plan);

// full attention: all cells stay, their rows turn by turn [n_layer, n_head, n_cells], their positions are shifted
llama_compact_status llama_kv_compact_plan_turn(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                 const int32_t * turn,
                       int32_t   n_layer,
                       int32_t   n_head,
                     llama_pos   shift,
         llama_kv_compact_plan & plan);

// sliding window: cells from position `first` on stay, their positions are shifted; older ones are freed
llama_compact_status llama_kv_compact_plan_shift(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                     llama_pos   first,
                     llama_pos   shift,
         llama_kv_compact_plan & plan);

// put the rows [i0, i0 + n) in the order of how they turn. A block reads all its rows before it writes one, so they may
// come in any order
void llama_kv_compact_by_turn(llama_kv_compact_rows & rows, int64_t i0, int64_t n);

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

    ggml_tensor * perm = nullptr; // I32 [hi - lo, n_head]
};

// how a plan is cut into blocks, and what the graph of the current block reads
struct llama_kv_compact_graph {
    int64_t n_blocks   = 0;
    int64_t n_rows_blk = 0; // rows per block
    int64_t n_dims_blk = 0; // channels of transposed V per block; heads, where every head has its own plan

    std::vector<llama_kv_compact_inputs> inps; // one per pattern

    std::vector<llama_kv_compact_rows> rows; // per pattern, every block of them in the order of how they turn

    ggml_tensor * rot = nullptr; // Hadamard matrix of quantized K
};

// does layer il rotate its keys by their position?
bool llama_kv_compact_is_rotated(const llama_model & model, uint32_t il);

// turn keys, F32 [head_dim, n, n_pos], by delta I32 [n_pos] positions, in place
ggml_tensor * llama_kv_compact_rope(
        const llama_model   & model,
        const llama_cparams & cparams,
               ggml_context * ctx,
                ggml_tensor * cur,
                ggml_tensor * delta,
                   uint32_t   il);

// turn K rows, F32 [a multiple of head_dim, n], in place where that is possible
ggml_tensor * llama_kv_compact_rotate(
        const llama_model   & model,
        const llama_cparams & cparams,
               ggml_context * ctx,
                ggml_tensor * cur,
                ggml_tensor * delta, // I32 [n]
                ggml_tensor * rot,   // Hadamard matrix of quantized K or nullptr
                   uint32_t   il);
