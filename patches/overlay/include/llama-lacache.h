#pragma once

// LaCache: keep a given set of cells per layer of one sequence, drop the rest.
//
// The mechanism knows nothing of ladders: which cells survive is the caller's plan.
// One rectangle says everything: keep[n_layer][n_kept], row-major, row il = which cells layer il keeps.
// Every layer keeps the same NUMBER of cells, so after the call cell i has position i in every layer and
// the shared cell table, the masks and flash attention stay what they are.

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// changes whenever a signature or a meaning below changes; checked by the bindings at load time
#define LLAMA_LACACHE_ABI 1

// results of llama_memory_seq_compact()
enum llama_compact_status {
    LLAMA_COMPACT_OK              =  0,
    LLAMA_COMPACT_ERR_CONTEXT     = -1, // ctx is NULL
    LLAMA_COMPACT_ERR_UNSUPPORTED = -2, // this memory cannot be compacted exactly, see llama_memory_compact_reason()
    LLAMA_COMPACT_ERR_SEQ         = -3, // seq_id out of range or without cells
    LLAMA_COMPACT_ERR_LAYERS      = -4, // n_layer differs from llama_memory_compact_n_layer()
    LLAMA_COMPACT_ERR_KEPT        = -5, // n_kept < 1 or more than the sequence has cells
    LLAMA_COMPACT_ERR_LENGTH      = -6, // keep is NULL or n_keep != n_layer*n_kept
    LLAMA_COMPACT_ERR_RANGE       = -7, // an entry is negative or >= the number of cells
    LLAMA_COMPACT_ERR_ORDER       = -8, // a row is not strictly ascending
    LLAMA_COMPACT_ERR_SHARED      = -9, // a cell that would have to change also belongs to another sequence
    LLAMA_COMPACT_ERR_ALLOC       = -10, // no room for the work buffers; nothing was changed
    LLAMA_COMPACT_ERR_COMPUTE     = -11, // the backend failed half way; the sequence was removed
};

LLAMA_API int32_t llama_lacache_abi(void);

// one sentence for people; never NULL
LLAMA_API const char * llama_compact_status_str(int32_t status);

// NULL if the memory of ctx can be compacted, else a sentence that says why not
LLAMA_API const char * llama_memory_compact_reason(const struct llama_context * ctx);

// number of rows a plan needs: the layers of the (full) attention KV cache; 0 if it cannot be compacted
LLAMA_API int32_t llama_memory_compact_n_layer(const struct llama_context * ctx);

// cells that seq_id holds in the (full) attention KV cache; 0 if there are none or it cannot be compacted
LLAMA_API int32_t llama_memory_seq_n_cells(const struct llama_context * ctx, llama_seq_id seq_id);

// Compact sequence seq_id.
//
//   keep    [n_layer][n_kept]  cells in order of position: 0 is the oldest cell of the sequence.
//                              every row strictly ascending, every entry in [0, llama_memory_seq_n_cells())
//   n_keep                     number of elements that keep points to, = n_layer*n_kept
//
// Afterwards the sequence has n_kept cells at positions 0..n_kept-1; the rest is free. V rows, and K rows whose
// position does not change, keep every bit; K rows that move are rotated by (new - old) position.
// Sliding-window layers keep their window and are shifted; recurrent layers keep their state.
// Other sequences are not touched. Nothing is changed unless LLAMA_COMPACT_OK (or ERR_COMPUTE) is returned.
//
// Needs no second copy of the cache: it works layer by layer in blocks of bounded size.
LLAMA_API int32_t llama_memory_seq_compact(
        struct llama_context * ctx,
                llama_seq_id   seq_id,
               const int32_t * keep,
                      size_t   n_keep,
                     int32_t   n_layer,
                     int32_t   n_kept);

#ifdef __cplusplus
}
#endif
