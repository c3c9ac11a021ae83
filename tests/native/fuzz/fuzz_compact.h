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

    // and of recorded queries
    int32_t n_query    = 0;
    int32_t n_recorded = 0;

    size_t n_ok = 0, n_shared = 0, n_bad = 0, n_scores = 0;

    int64_t pick(int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(gen); }
    bool    chance(double p)             { return std::bernoulli_distribution(p)(gen); }
};

[[noreturn]] void fail(const std::string & text);

// the bytes of one sequence, or of the whole memory
std::vector<uint8_t> state(llama_context * ctx, llama_seq_id seq /* -1 = all */);

int32_t strange(fuzzer & f);

// fuzz_scores.cpp: a call of a function that scores or records, and what must hold after it

void call_scores(fuzzer & f);

// fuzz_plans.cpp: plans, and what the header says of them

plan good_plan(fuzzer & f, llama_seq_id seq, int32_t n_layer);

// make it worse in one of many ways; it may stay or become allowed
void spoil(fuzzer & f, plan & p, int32_t n_cells);

// the rules of the header in other words than the implementation's
bool is_allowed(const fuzzer & f, const plan & p, int32_t n_layer);

// would the plan rewrite or renumber a cell that another sequence has, too? Positions have no gaps in this program
bool rewrites_shared(const fuzzer & f, const plan & p);
