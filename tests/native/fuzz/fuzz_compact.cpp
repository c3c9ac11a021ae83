// Throw bad and good plans at llama_memory_seq_compact(); run under AddressSanitizer and UndefinedBehaviorSanitizer.
//
//   fuzz_compact SEED N_CALLS MODEL...
//
// Each model is opened with several kinds of cache. In between, sequences grow, shrink, share prefixes and shift.
// After every call:
//   - the status is OK exactly for a plan that the header allows (is_allowed() below says so in its own words)
//   - a refused call left the whole memory byte-identical
//   - an accepted one left the other sequences byte-identical, and this one with n_kept cells at 0..n_kept-1
// Plans lie in heap blocks of exactly n_keep elements, so that reading one element too many is caught.
//
// Prints one line of counts. Exit code 0 if all held, 1 with a sentence if not, 2 for wrong usage.

#include "llama-lacache.h"

#include <algorithm>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

static constexpr int32_t N_SEQ = 3;

struct cache_kind {
    const char * name;
    ggml_type    type_k;
    ggml_type    type_v;
    bool         flash_attn;
    bool         unified;
    bool         swa_full;
};

static const cache_kind KINDS[] = {
    { "f16 unified",            GGML_TYPE_F16,  GGML_TYPE_F16,  false, true,  true  },
    { "f16 split, flash",       GGML_TYPE_F16,  GGML_TYPE_F16,  true,  false, false },
    { "q8_0/q4_0 unified",      GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, true,  true,  false },
    { "f32 split, small window", GGML_TYPE_F32, GGML_TYPE_F32,  false, false, false },
};

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

[[noreturn]] static void fail(const std::string & text) {
    fprintf(stderr, "fuzz_compact: %s\n", text.c_str());
    exit(1);
}

static std::vector<uint8_t> state(llama_context * ctx, llama_seq_id seq /* -1 = all */) {
    const size_t size = seq < 0 ? llama_state_get_size(ctx) : llama_state_seq_get_size(ctx, seq);
    std::vector<uint8_t> res(size);
    const size_t n = seq < 0 ? llama_state_get_data(ctx, res.data(), size) : llama_state_seq_get_data(ctx, res.data(), size, seq);
    if (n != size) {
        fail("a state could not be read");
    }
    return res;
}

//
// between the calls: the memory lives
//

static void grow(fuzzer & f) {
    const llama_seq_id seq = f.pick(0, N_SEQ - 1);
    const int32_t      n   = f.pick(1, 24);

    const llama_pos first = llama_memory_seq_pos_max(llama_get_memory(f.ctx), seq) + 1;

    llama_batch batch = llama_batch_init(n, 0, 1);
    for (int32_t i = 0; i < n; ++i) {
        batch.token[i]     = f.pick(0, f.n_vocab - 1);
        batch.pos[i]       = first + i;
        batch.n_seq_id[i]  = 1;
        batch.seq_id[i][0] = seq;
        batch.logits[i]    = i == n - 1;
    }
    batch.n_tokens = n;

    const int32_t status = llama_decode(f.ctx, batch);
    llama_batch_free(batch);

    if (status == 0) {
        for (int32_t i = 0; i < n; ++i) {
            f.cells[seq].push_back(f.next_cell++);
        }
    } else if (status == 1) { // full
        llama_memory_seq_rm(llama_get_memory(f.ctx), seq, -1, -1);
        f.cells[seq].clear();
    } else {
        fail("llama_decode() returned " + std::to_string(status));
    }
}

static void edit(fuzzer & f) {
    llama_memory_t mem = llama_get_memory(f.ctx);

    const llama_seq_id seq = f.pick(0, N_SEQ - 1);
    const llama_pos    max = llama_memory_seq_pos_max(mem, seq);

    if (f.chance(0.5)) { // share everything with another sequence
        const llama_seq_id other = (seq + 1) % N_SEQ;
        llama_memory_seq_rm(mem, other, -1, -1);
        llama_memory_seq_cp(mem, seq, other, -1, -1);
        f.cells[other] = f.cells[seq];
    } else if (f.can_edit && max > 8 && f.chance(0.7)) { // forget the end
        const llama_pos from = f.pick(1, max);
        const size_t    n_rm = max - from + 1;
        if (n_rm < f.cells[seq].size() && llama_memory_seq_rm(mem, seq, from, -1)) {
            f.cells[seq].resize(f.cells[seq].size() - n_rm);
        }
    } else {
        llama_memory_seq_rm(mem, seq, -1, -1);
        f.cells[seq].clear();
    }
}

//
// plans
//

static plan good_plan(fuzzer & f, llama_seq_id seq, int32_t n_layer) {
    const int32_t n_cells  = f.cells[seq].size();
    const int32_t n_kept   = f.chance(0.1) ? (f.chance(0.5) ? 1 : n_cells) : f.pick(1, n_cells);
    const int32_t n_pinned = f.chance(0.5) ? f.pick(0, n_kept) : 0;

    plan p;
    p.seq = seq; p.n_layer = n_layer; p.n_kept = n_kept;
    p.n_keep = p.n_stored = (size_t) n_layer*n_kept;
    p.keep.reset(new int32_t[p.n_stored]);

    for (int32_t il = 0; il < n_layer; ++il) {
        int32_t * row = p.keep.get() + (size_t) il*n_kept;
        if (il > 0 && f.chance(0.4)) { // layers of a ladder share patterns
            std::copy(row - n_kept, row, row);
            continue;
        }
        int32_t next = 0;
        for (int32_t i = 0; i < n_kept; ++i) { // sequential sampling: ascending by construction
            const int32_t n_spare = n_cells - next - (n_kept - i);
            next += i < n_pinned || n_spare == 0 ? 0 : f.pick(0, std::min<int64_t>(n_spare, 3));
            row[i] = next++;
        }
    }
    return p;
}

static int32_t strange(fuzzer & f) {
    static const int32_t values[] = { 0, 1, -1, 2, -2, 3, 4, 7, 64, 255, 256, 257, 65536, 1 << 30, INT_MAX, INT_MAX - 1, INT_MIN, INT_MIN + 1 };
    return f.chance(0.2) ? (int32_t) f.pick(INT_MIN, INT_MAX) : values[f.pick(0, std::size(values) - 1)];
}

// the caller's promise is that keep points to n_keep elements: reallocate to keep it where memory allows
static void restore_promise(fuzzer & f, plan & p) {
    if (p.n_keep == p.n_stored || p.n_keep > (1u << 20)) {
        return;
    }
    std::unique_ptr<int32_t[]> keep(new int32_t[p.n_keep]);
    for (size_t i = 0; i < p.n_keep; ++i) {
        keep[i] = i < p.n_stored ? p.keep[i] : strange(f);
    }
    p.keep = std::move(keep);
    p.n_stored = p.n_keep;
}

static void spoil(fuzzer & f, plan & p, int32_t n_cells) {
    const auto entry = [&]() -> int32_t & { return p.keep[f.pick(0, p.n_stored - 1)]; };

    switch (f.pick(0, 11)) {
        case 0: p.seq     = strange(f);              break;
        case 1: p.n_layer = strange(f);              break;
        case 2: p.n_kept  = strange(f);              break;
        case 3: p.n_keep  = f.chance(0.5) ? (size_t) strange(f) : p.n_keep + f.pick(-2, 2); break;
        case 4: p.keep.reset(); p.n_stored = 0; p.n_keep = f.chance(0.5) ? 0 : p.n_keep; return;
        case 5: entry() = strange(f);                break;
        case 6: entry() = n_cells + f.pick(-1, 2);   break;
        case 7: { auto & e = entry(); e = (int32_t) ((uint32_t) e + (uint32_t) f.pick(-2, 2)); } break;
        case 8: // a repeated or swapped pair
            if (p.n_stored > 1) {
                const size_t i = f.pick(1, p.n_stored - 1);
                if (f.chance(0.5)) { std::swap(p.keep[i - 1], p.keep[i]); } else { p.keep[i] = p.keep[i - 1]; }
            }
            break;
        case 9: // a row backwards
            std::reverse(p.keep.get(), p.keep.get() + p.n_stored);
            break;
        case 10: // the transposed rectangle
            std::swap(p.n_layer, p.n_kept);
            break;
        case 11: // all at once
            p.seq = strange(f); p.n_layer = strange(f); p.n_kept = strange(f); p.n_keep = (size_t) strange(f);
            for (size_t i = 0; i < p.n_stored; ++i) { p.keep[i] = strange(f); }
            break;
    }
    restore_promise(f, p);
}

// the rules of the header in other words than the implementation's
static bool is_allowed(const fuzzer & f, const plan & p, int32_t n_layer) {
    if (p.seq < 0 || p.seq >= N_SEQ || n_layer == 0 || p.n_layer != n_layer || !p.keep) {
        return false;
    }
    const int64_t n_cells = f.cells[p.seq].size();
    if (p.n_kept < 1 || p.n_kept > n_cells || p.n_keep != (size_t) n_layer*p.n_kept) {
        return false;
    }
    for (int32_t il = 0; il < n_layer; ++il) {
        std::set<int32_t> seen;
        int32_t last = -1;
        for (int32_t i = 0; i < p.n_kept; ++i) {
            const int32_t c = p.keep[(size_t) il*p.n_kept + i];
            if (c < 0 || c >= n_cells || c < last || !seen.insert(c).second) {
                return false;
            }
            last = c;
        }
    }
    return true;
}

// the cells that the plan would rewrite or renumber; positions have no gaps in this program
static bool rewrites_shared(const fuzzer & f, const plan & p) {
    int32_t first = p.n_kept;
    for (size_t i = 0; i < p.n_keep; ++i) {
        if (p.keep[i] != (int32_t) (i % p.n_kept)) {
            first = std::min<int32_t>(first, i % p.n_kept);
        }
    }
    for (llama_seq_id other = 0; other < N_SEQ; ++other) {
        if (other == p.seq) {
            continue;
        }
        const std::set<uint64_t> theirs(f.cells[other].begin(), f.cells[other].end());
        for (int32_t i = first; i < p.n_kept; ++i) {
            if (theirs.count(f.cells[p.seq][i])) {
                return true;
            }
        }
    }
    return false;
}

static void call(fuzzer & f, bool unified, bool has_more) {
    llama_memory_t mem = llama_get_memory(f.ctx);

    const int32_t n_layer = llama_memory_compact_n_layer(f.ctx);
    const llama_seq_id seq = f.pick(0, N_SEQ - 1);

    plan p;
    if (f.cells[seq].empty()) {
        p.seq = seq; p.n_layer = n_layer; p.n_kept = f.pick(1, 8);
        p.n_keep = p.n_stored = (size_t) std::max(1, n_layer)*p.n_kept;
        p.keep.reset(new int32_t[p.n_stored]());
    } else {
        p = good_plan(f, seq, std::max(1, n_layer));
    }
    const bool spoiled = f.chance(0.75);
    if (spoiled) {
        spoil(f, p, f.cells[seq].size());
        if (f.chance(0.2) && p.n_stored > 0) {
            spoil(f, p, f.cells[seq].size());
        }
    }

    std::vector<uint8_t> before[N_SEQ];
    for (llama_seq_id s = 0; s < N_SEQ; ++s) {
        before[s] = state(f.ctx, s);
    }
    const auto all = state(f.ctx, -1);

    const bool    allowed = is_allowed(f, p, n_layer);
    const int32_t status  = llama_memory_seq_compact(f.ctx, p.seq, p.keep.get(), p.n_keep, p.n_layer, p.n_kept);

    const std::string what = "seq " + std::to_string(p.seq) + ", n_keep " + std::to_string(p.n_keep) + ", n_layer " +
            std::to_string(p.n_layer) + ", n_kept " + std::to_string(p.n_kept) + ": " + llama_compact_status_str(status);

    if (status != LLAMA_COMPACT_OK) {
        if (state(f.ctx, -1) != all) {
            fail("a refused call changed the memory (" + what + ")");
        }
        if (status == LLAMA_COMPACT_ERR_SHARED) {
            // the window or the recurrent state of a model with two memories is shared by rules of its own
            if (!allowed || (!has_more && !(unified && rewrites_shared(f, p)))) {
                fail("nothing shared would have changed (" + what + ")");
            }
            ++f.n_shared;
            return;
        }
        if (allowed) {
            fail("an allowed plan was refused (" + what + ")");
        }
        ++f.n_bad;
        return;
    }

    if (!allowed) {
        fail("a forbidden plan was carried out (" + what + ")");
    }
    if (unified && rewrites_shared(f, p)) {
        fail("a shared cell was rewritten (" + what + ")");
    }
    for (llama_seq_id s = 0; s < N_SEQ; ++s) {
        if (s != p.seq && state(f.ctx, s) != before[s]) {
            fail("another sequence changed (" + what + ")");
        }
    }
    if (llama_memory_seq_n_cells(f.ctx, p.seq) != p.n_kept || llama_memory_seq_pos_max(mem, p.seq) != p.n_kept - 1) {
        fail("wrong number of cells or last position (" + what + ")");
    }

    // cells keep their place: the first n_kept ones stay, whatever rows they hold now
    f.cells[p.seq].resize(p.n_kept);
    ++f.n_ok;
}

static void run(const std::string & path, const cache_kind & kind, uint64_t seed, size_t n_calls) {
    llama_model * model = llama_model_load_from_file(path.c_str(), llama_model_default_params());
    if (!model) {
        fail("cannot load " + path);
    }

    llama_context_params params = llama_context_default_params();
    params.n_ctx           = 256*(kind.unified ? 1 : N_SEQ);
    params.n_batch         = params.n_ubatch = 32;
    params.n_seq_max       = N_SEQ;
    params.n_threads       = params.n_threads_batch = 1;
    params.type_k          = kind.type_k;
    params.type_v          = kind.type_v;
    params.flash_attn_type = kind.flash_attn ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.kv_unified      = kind.unified;
    params.swa_full        = kind.swa_full;

    fuzzer f;
    f.gen.seed(seed);
    f.ctx      = llama_init_from_model(model, params);
    if (!f.ctx) { // not every memory has every kind: no quantized V without flash attention, none at all for MLA
        printf("%s (%s): llama.cpp makes no such context\n", path.c_str(), kind.name);
        llama_model_free(model);
        return;
    }
    f.n_vocab  = llama_vocab_n_tokens(llama_model_get_vocab(model));
    f.can_edit = !llama_model_is_recurrent(model) && !llama_model_is_hybrid(model) && llama_model_n_swa(model) == 0;
    const bool has_more = llama_model_is_hybrid(model) || llama_model_n_swa(model) > 0;

    for (size_t i = 0; i < n_calls; ++i) {
        if (f.chance(0.5)) {
            grow(f);
        }
        if (f.chance(0.1)) {
            edit(f);
            grow(f); // a queued copy between streams runs with the next batch; until then the state read is stale
        }
        call(f, kind.unified, has_more);
    }

    printf("%s (%s): %zu compactions, %zu refused for shared cells, %zu bad calls\n",
            path.substr(path.find_last_of('/') + 1).c_str(), kind.name, f.n_ok, f.n_shared, f.n_bad);

    llama_free(f.ctx);
    llama_model_free(model);
}

int main(int argc, char ** argv) {
    if (argc < 4) {
        fprintf(stderr, "usage: %s SEED N_CALLS MODEL...\n", argv[0]);
        return 2;
    }
    uint64_t     seed    = strtoull(argv[1], nullptr, 10);
    const size_t n_calls = strtoull(argv[2], nullptr, 10);

    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();

    if (llama_memory_seq_compact(nullptr, 0, nullptr, 0, 0, 0) != LLAMA_COMPACT_ERR_CONTEXT) {
        fail("no context must be an error");
    }
    for (int i = 3; i < argc; ++i) {
        for (const auto & kind : KINDS) {
            run(argv[i], kind, seed++, n_calls);
        }
    }

    llama_backend_free();
    return 0;
}
