#pragma once

// LaCache: keep a given set of cells per layer, or per layer and KV head, of one sequence, drop the rest.
//
// The mechanism knows nothing of ladders: which cells survive is the caller's plan.
// One box says everything: keep[n_layer][n_head][n_kept], row-major, row (il, h) = which cells KV head h of layer il
// keeps; with n_head = 1 all heads of a layer keep the same ones.
// Every row keeps the same NUMBER of cells, so after the call cell i has one position in every layer and head, and
// the shared cell table, the masks and flash attention stay what they are.
//
// Two ways to number what is left. llama_memory_seq_compact() closes the gaps: cell i gets position i, and its key is
// turned there. llama_memory_seq_thin() leaves keys as they are, at the position where their token once was; the table
// then counts backwards from the newest cell, which is what masks need, and only the caller knows the older positions.
// When these come to an end, llama_memory_seq_turn() moves them down.
//
// Scores are what a plan may be made from: how much a cell is worth keeping, float32, higher = keep, always
// scores[n_layer][n_head_kv][n_cells] with layers as in a plan and cells in order of position.
// Two kinds: of the keys alone, and of the attention that the newest queries gave to every cell.

#include "llama.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// changes whenever a signature or a meaning below changes; checked by the bindings at load time
#define LLAMA_LACACHE_ABI 6

// a float counts whole positions exactly up to here
#define LLAMA_LACACHE_TURN_MAX (1 << 24)

// results of the functions below that change or compute something
enum llama_compact_status {
    LLAMA_COMPACT_OK              =  0,
    LLAMA_COMPACT_ERR_CONTEXT     = -1, // ctx is NULL
    LLAMA_COMPACT_ERR_UNSUPPORTED = -2, // this memory cannot be compacted exactly, see llama_memory_compact_reason()
    LLAMA_COMPACT_ERR_SEQ         = -3, // seq_id out of range or without cells
    LLAMA_COMPACT_ERR_LAYERS      = -4, // n_layer differs from llama_memory_compact_n_layer()
    LLAMA_COMPACT_ERR_KEPT        = -5, // n_kept < 1 or more than the sequence has cells
    LLAMA_COMPACT_ERR_LENGTH      = -6, // an array is NULL or does not have the number of elements it must have
    LLAMA_COMPACT_ERR_RANGE       = -7, // an entry is negative or >= the number of cells; an impossible turn or position
    LLAMA_COMPACT_ERR_ORDER       = -8, // a row is not strictly ascending
    LLAMA_COMPACT_ERR_SHARED      = -9, // a cell that would have to change also belongs to another sequence
    LLAMA_COMPACT_ERR_ALLOC       = -10, // no room for the work buffers; nothing was changed
    LLAMA_COMPACT_ERR_COMPUTE     = -11, // the backend failed half way; a sequence that it was changing was removed
    LLAMA_COMPACT_ERR_HEADS       = -12, // heads: see llama_memory_compact_head_reason(), or n_head is neither 1 nor their number
    LLAMA_COMPACT_ERR_QUERY       = -13, // queries: see llama_memory_query_reason(), or n_query out of range, or none recorded
};

LLAMA_API int32_t llama_lacache_abi(void);

// cells of a KV cache are allocated in steps of this many: 32 where only CPUs compute, 256, as stock llama.cpp does, where
// ggml has a GPU, whose attention kernels want that
LLAMA_API int32_t llama_lacache_cell_step(void);

// llama_init_from_model(), but the KV cache has params.n_ctx cells rounded up to llama_lacache_cell_step(), not to 256;
// with n_seq_max > 1 or n_ctx = 0 the same as upstream's. Window layers hold a multiple of 256 cells, as ever
LLAMA_API struct llama_context * llama_lacache_init_from_model(
              struct llama_model * model,
      struct llama_context_params   params);

// one sentence for people; never NULL
LLAMA_API const char * llama_compact_status_str(int32_t status);

// NULL if the memory of ctx can be compacted, else a sentence that says why not
LLAMA_API const char * llama_memory_compact_reason(const struct llama_context * ctx);

// number of rows a plan needs: the layers of the (full) attention KV cache; 0 if it cannot be compacted
LLAMA_API int32_t llama_memory_compact_n_layer(const struct llama_context * ctx);

// cells that seq_id holds in the (full) attention KV cache; 0 if there are none or it cannot be compacted
LLAMA_API int32_t llama_memory_seq_n_cells(const struct llama_context * ctx, llama_seq_id seq_id);

// KV heads, the same in every layer of the (full) attention KV cache; 0 if they differ or it cannot be compacted
LLAMA_API int32_t llama_memory_compact_n_head_kv(const struct llama_context * ctx);

// NULL if every KV head may keep cells of its own, else a sentence that says why not
LLAMA_API const char * llama_memory_compact_head_reason(const struct llama_context * ctx);

// Compact sequence seq_id.
//
//   keep    [n_layer][n_head][n_kept]  cells in order of position: 0 is the oldest cell of the sequence.
//                              every row strictly ascending, every entry in [0, llama_memory_seq_n_cells())
//   n_keep                     number of elements that keep points to, = n_layer*n_head*n_kept
//   n_head                     1, or llama_memory_compact_n_head_kv() if llama_memory_compact_head_reason() is NULL
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
                     int32_t   n_head,
                     int32_t   n_kept);

// The same without renumbering: K rows that move keep every bit, too, and so the position by which they are rotated.
// The newest cell keeps its position in the table, the one before it gets one less, and so on, which is right for cells
// behind the last gap. Sliding-window cells that are older than the table are freed, as in a compaction; recurrent
// layers are not touched.
// ERR_RANGE if that would need negative positions, which takes several cells at one position.
LLAMA_API int32_t llama_memory_seq_thin(
        struct llama_context * ctx,
                llama_seq_id   seq_id,
               const int32_t * keep,
                      size_t   n_keep,
                     int32_t   n_layer,
                     int32_t   n_head,
                     int32_t   n_kept);

// Turn the keys of every cell by a number of positions.
//
//   turn    [n_layer][n_head][n_cells]  by how much; cells in order of position, |turn| <= LLAMA_LACACHE_TURN_MAX
//   n_turn                     number of elements that turn points to
//   shift                      by how much positions in the table change, those of sliding-window and recurrent layers
//                              included. No position may become negative or > LLAMA_LACACHE_TURN_MAX; window cells
//                              before position 0 are freed
//
// V rows, and K rows with turn 0 or in layers without a rotation, keep every bit.
LLAMA_API int32_t llama_memory_seq_turn(
        struct llama_context * ctx,
                llama_seq_id   seq_id,
               const int32_t * turn,
                      size_t   n_turn,
                     int32_t   n_layer,
                     int32_t   n_head,
                   llama_pos   shift);

// Score cells by how little their keys are like each other (KeyDiff, arXiv 2504.15364):
//
//   scores[il][h][i - first] = -cos(k_i, m), m = mean over the cells first, first + 1, ... of k/|k|
//
// with the keys of layer il and KV head h as they are without their rotation by the position in the table, so that the
// place of a cell does not count. In [-1, 1]; 0 for a key that is zero.
//
//   first                      cells before it are left out: 0, or what lies behind the last gap of a thinned sequence
//   n_scores                   number of elements that scores points to, = n_layer*n_head_kv*(n_cells - first)
//
// Changes nothing in the memory. ERR_HEADS if the layers have different numbers of KV heads.
LLAMA_API int32_t llama_memory_seq_score_keys(
        struct llama_context * ctx,
                llama_seq_id   seq_id,
                     int32_t   first,
                       float * scores,
                      size_t   n_scores);

// NULL if queries can be recorded and scored, else a sentence that says why not
LLAMA_API const char * llama_memory_query_reason(const struct llama_context * ctx);

// Record n_query queries of every layer with full attention from now on; 0 = off (as in a new context): those of the newest
// tokens or, with spread, of tokens about equally far apart: of a ubatch with n_query tokens or more those that end with its
// last one, floor(n_tokens/n_query) apart; of smaller ubatches together every 2^k-th token, k growing, and the newest.
// Forgets what was recorded before. Off costs nothing: the graphs are those of stock llama.cpp.
// On takes n_layer*n_query*n_head*head_dim floats beside the KV cache; logits keep every bit.
LLAMA_API int32_t llama_memory_set_n_query(struct llama_context * ctx, int32_t n_query, bool spread);

// queries recorded since the numbering of the cells changed (compaction, thinning, removal, shift, restored state, ...),
// at most n_query; 0 if there are none, recording is off or the sequence does not exist
LLAMA_API int32_t llama_memory_n_query(const struct llama_context * ctx, llama_seq_id seq_id);

// Score every cell by the attention that the recorded queries give to it, with the keys that it holds now:
//
//   scores[il][h][i] = mean over the query heads of KV head h and over the recorded queries of
//                      softmax(what the model's attention computes: scale, causal mask, soft cap, ALiBi, sinks)[i]
//
// The sum over the cells is 1, less what goes to attention sinks. Needs n_seq_max = 1.
// Changes nothing in the memory. ERR_QUERY if nothing is recorded.
LLAMA_API int32_t llama_memory_seq_score_attention(
        struct llama_context * ctx,
                llama_seq_id   seq_id,
                       float * scores,
                      size_t   n_scores);

// Losses instead of logits: n_vocab > 0 makes a ubatch all of whose tokens are outputs, two at least, give
//
//   of its last token     all logits, as ever
//   of every other one    log(sum of exp(logits of the tokens 0 .. n_vocab - 1)) - logit of the token behind it, at most
//                         70 a term
//
// so that how likely a text is comes from a part of the output matrix, and one number a token is copied. They are the
// first n_outputs - 1 floats of llama_get_logits(). Vocabularies begin with what is frequent. Other ubatches get logits; 0
// = always logits (as in a new context). A batch must not be larger than n_ubatch, or a row in its midst has no token
// behind it to tell of.
// ERR_RANGE for n_vocab < 0 or as large as the vocabulary, ERR_UNSUPPORTED where the output matrix is split or repacked, or
// its device has no rows of that type by number, or the model adds a bias or makes its logits in a way of its own.
LLAMA_API int32_t llama_lacache_set_n_vocab(struct llama_context * ctx, int32_t n_vocab);

#ifdef __cplusplus
}
#endif
