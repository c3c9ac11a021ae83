#pragma once

// What the parts of fuzz_compact share: a plan, and what the fuzzer knows by itself of the memory.

#include "llama-lacache.h"

#include <cstdint>
#include <memory>
#include <random>
#include <vector>

static constexpr int32_t N_SEQ = 3;

struct plan {
    llama_seq_id seq    = 0;
    size_t       n_keep = 0;
    int32_t      n_layer = 0;
    int32_t      n_kept  = 0;

    std::unique_ptr<int32_t[]> keep; // exactly n_stored elements
    size_t n_stored = 0;
};

struct fuzzer {
    std::mt19937_64 gen;

    llama_context * ctx = nullptr;
    int32_t n_vocab = 0;
    bool    can_edit = false; // parts of a sequence can be removed (not of a recurrent state)

    // what the fuzzer knows by itself: cells of each sequence, named by who first wrote them
    std::vector<uint64_t> cells[N_SEQ];
    uint64_t next_cell = 0;

    size_t n_ok = 0, n_shared = 0, n_bad = 0;

    int64_t pick(int64_t lo, int64_t hi) { return std::uniform_int_distribution<int64_t>(lo, hi)(gen); }
    bool    chance(double p)             { return std::bernoulli_distribution(p)(gen); }
};

// fuzz_plans.cpp: plans, and what the header says of them

plan good_plan(fuzzer & f, llama_seq_id seq, int32_t n_layer);

// make it worse in one of many ways; it may stay or become allowed
void spoil(fuzzer & f, plan & p, int32_t n_cells);

// the rules of the header in other words than the implementation's
bool is_allowed(const fuzzer & f, const plan & p, int32_t n_layer);

// would the plan rewrite or renumber a cell that another sequence has, too? Positions have no gaps in this program
bool rewrites_shared(const fuzzer & f, const plan & p);
