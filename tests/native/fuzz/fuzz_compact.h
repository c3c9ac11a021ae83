#pragma once

// What the parts of fuzz_compact share: a plan, and what the fuzzer knows by itself of the memory.

#include "llama-lacache.h"

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

static constexpr int32_t N_SEQ = 3; // at most

struct plan {
    bool         thin   = false; // llama_memory_seq_thin(), else llama_memory_seq_compact()
    llama_seq_id seq    = 0;
    size_t       n_keep = 0;
    int32_t      n_layer = 0;
    int32_t      n_head  = 1;
    int32_t      n_kept  = 0;

    std::unique_ptr<int32_t[]> keep; // exactly n_stored elements
    size_t n_stored = 0;
};

struct fuzzer {
    std::mt19937_64 gen;

    llama_context * ctx = nullptr;
    int32_t n_vocab = 0;
    int32_t n_seq   = N_SEQ;
    bool    can_edit = false; // parts of a sequence can be removed (not of a recurrent state)

    // what the fuzzer knows by itself: cells of each sequence, named by who first wrote them
    std::vector<uint64_t> cells[N_SEQ];
    uint64_t next_cell = 0;

    // position of the next token of each sequence; its cells have the positions before it, without a gap
    llama_pos pos_next[N_SEQ] = {};

    llama_pos pos0(llama_seq_id seq) const { return pos_next[seq] - (llama_pos) cells[seq].size(); }

    void clear(llama_seq_id seq) { cells[seq].clear(); pos_next[seq] = 0; }

    // and of recorded queries
    int32_t n_query    = 0;
    int32_t n_recorded = 0;

    size_t n_ok = 0, n_shared = 0, n_bad = 0, n_scores = 0, n_thinned = 0, n_turned = 0;

    int64_t pick(int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(gen); }
    bool    chance(double p)             { return std::bernoulli_distribution(p)(gen); }
};

[[noreturn]] void fail(const std::string & text);

// the bytes of one sequence, or of the whole memory
std::vector<uint8_t> state(llama_context * ctx, llama_seq_id seq /* -1 = all */);

int32_t strange(fuzzer & f);

// has another sequence, too, cell i of this one?
bool is_shared(const fuzzer & f, llama_seq_id seq, int32_t i);

// fuzz_turns.cpp: a call of llama_memory_seq_turn(), and what must hold after it

void call_turn(fuzzer & f, bool unified, bool has_more);

// fuzz_scores.cpp: a call of a function that scores or records, and what must hold after it

void call_scores(fuzzer & f);

// fuzz_plans.cpp: plans, and what the header says of them

plan good_plan(fuzzer & f, llama_seq_id seq, int32_t n_layer);

// make it worse in one of many ways; it may stay or become allowed
void spoil(fuzzer & f, plan & p, int32_t n_cells);

// the rules of the header in other words than the implementation's
bool is_allowed(const fuzzer & f, const plan & p, int32_t n_layer);

// would the plan rewrite or renumber a cell that another sequence has, too?
bool rewrites_shared(const fuzzer & f, const plan & p);
