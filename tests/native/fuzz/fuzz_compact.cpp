// Throw bad and good plans at llama_memory_seq_compact(), _thin() and _turn(), and calls at what scores cells; run under
// AddressSanitizer and UndefinedBehaviorSanitizer.
//
//   fuzz_compact SEED N_CALLS MODEL...
//
// Each model is opened with several kinds of cache. In between, sequences grow, shrink, share prefixes and shift.
// After every call:
//   - the status is OK exactly for a plan that the header allows (is_allowed() in fuzz_plans.cpp says so in its own words)
//   - a refused call left the whole memory byte-identical
//   - an accepted one left the other sequences byte-identical, and this one with the cells and positions it must have
// Plans lie in heap blocks of exactly n_keep elements, so that reading one element too many is caught.
//
// Prints one line of counts. Exit code 0 if all held, 1 with a sentence if not, 2 for wrong usage.

#include "fuzz_compact.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

struct cache_kind {
    const char * name;
    ggml_type    type_k;
    ggml_type    type_v;
    bool         flash_attn;
    bool         unified;
    bool         swa_full;
    int32_t      n_seq;
};

static const cache_kind KINDS[] = {
    { "f16 unified",            GGML_TYPE_F16,  GGML_TYPE_F16,  false, true,  true,  N_SEQ },
    { "f16 split, flash",       GGML_TYPE_F16,  GGML_TYPE_F16,  true,  false, false, N_SEQ },
    { "q8_0/q4_0 unified",      GGML_TYPE_Q8_0, GGML_TYPE_Q4_0, true,  true,  false, N_SEQ },
    { "f32 split, small window", GGML_TYPE_F32, GGML_TYPE_F32,  false, false, false, N_SEQ },
    { "f16 alone, flash",       GGML_TYPE_F16,  GGML_TYPE_F16,  true,  true,  false, 1 },
    { "q8_0/f16 alone",         GGML_TYPE_Q8_0, GGML_TYPE_F16,  false, true,  true,  1 },
};

void fail(const std::string & text) {
    fprintf(stderr, "fuzz_compact: %s\n", text.c_str());
    exit(1);
}

std::vector<uint8_t> state(llama_context * ctx, llama_seq_id seq) {
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
    const llama_seq_id seq = f.pick(0, f.n_seq - 1);
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
        f.pos_next[seq] = first + n;
        f.n_recorded = std::min(f.n_recorded + n, f.n_query);
    } else if (status == 1) { // full
        llama_memory_seq_rm(llama_get_memory(f.ctx), seq, -1, -1);
        f.clear(seq);
        f.n_recorded = 0;
    } else {
        fail("llama_decode() returned " + std::to_string(status));
    }
}

static void edit(fuzzer & f) {
    llama_memory_t mem = llama_get_memory(f.ctx);

    const llama_seq_id seq = f.pick(0, f.n_seq - 1);
    const llama_pos    max = llama_memory_seq_pos_max(mem, seq);

    f.n_recorded = 0; // whatever follows

    if (f.n_seq > 1 && f.chance(0.5)) { // share everything with another sequence
        const llama_seq_id other = (seq + 1) % f.n_seq;
        llama_memory_seq_rm(mem, other, -1, -1);
        llama_memory_seq_cp(mem, seq, other, -1, -1);
        f.cells[other] = f.cells[seq];
        f.pos_next[other] = f.pos_next[seq];
    } else if (f.can_edit && f.cells[seq].size() > 8 && f.chance(0.7)) { // forget the end
        const llama_pos from = f.pick(f.pos0(seq) + 1, max);
        if (llama_memory_seq_rm(mem, seq, from, -1)) {
            f.cells[seq].resize(from - f.pos0(seq));
            f.pos_next[seq] = from;
        }
    } else {
        llama_memory_seq_rm(mem, seq, -1, -1);
        f.clear(seq);
    }
}

//
// the call, and what must hold after it
//

static void call(fuzzer & f, bool unified, bool has_more) {
    llama_memory_t mem = llama_get_memory(f.ctx);

    const int32_t n_layer = llama_memory_compact_n_layer(f.ctx);
    const llama_seq_id seq = f.pick(0, f.n_seq - 1);

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
    for (llama_seq_id s = 0; s < f.n_seq; ++s) {
        before[s] = state(f.ctx, s);
    }
    const auto all = state(f.ctx, -1);

    const bool    allowed = is_allowed(f, p, n_layer);
    const auto    change  = p.thin ? llama_memory_seq_thin : llama_memory_seq_compact;
    const int32_t status  = change(f.ctx, p.seq, p.keep.get(), p.n_keep, p.n_layer, p.n_head, p.n_kept);

    const std::string what = std::string(p.thin ? "thin" : "compact") + " seq " + std::to_string(p.seq) + ", n_keep " + std::to_string(p.n_keep) + ", n_layer " +
            std::to_string(p.n_layer) + ", n_head " + std::to_string(p.n_head) + ", n_kept " + std::to_string(p.n_kept) + ": " + llama_compact_status_str(status);

    if (status != LLAMA_COMPACT_OK) {
        if (state(f.ctx, -1) != all) {
            fail("a refused call changed the memory (" + what + ")");
        }
        if (status == LLAMA_COMPACT_ERR_SHARED) {
            // the window or the recurrent state of a model with two memories is shared by rules of its own; thinning
            // does not touch them
            if (!allowed || ((!has_more || p.thin) && !(unified && rewrites_shared(f, p)))) {
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
    for (llama_seq_id s = 0; s < f.n_seq; ++s) {
        if (s != p.seq && state(f.ctx, s) != before[s]) {
            fail("another sequence changed (" + what + ")");
        }
    }

    f.pos_next[p.seq] = p.thin ? f.pos_next[p.seq] : p.n_kept;

    if (llama_memory_seq_n_cells(f.ctx, p.seq) != p.n_kept || llama_memory_seq_pos_max(mem, p.seq) != f.pos_next[p.seq] - 1) {
        fail("wrong number of cells or last position (" + what + ")");
    }
    // a window has its own first position
    if (!has_more && llama_memory_seq_pos_min(mem, p.seq) != f.pos_next[p.seq] - p.n_kept) {
        fail("wrong first position (" + what + ")");
    }

    // cells keep their place: the first n_kept ones stay, whatever rows they hold now
    f.cells[p.seq].resize(p.n_kept);
    f.n_recorded = 0;
    ++(p.thin ? f.n_thinned : f.n_ok);
}

static void run(const std::string & path, const cache_kind & kind, uint64_t seed, size_t n_calls) {
    llama_model * model = llama_model_load_from_file(path.c_str(), llama_model_default_params());
    if (!model) {
        fail("cannot load " + path);
    }

    llama_context_params params = llama_context_default_params();
    params.n_ctx           = 256*(kind.unified ? 1 : kind.n_seq);
    params.n_batch         = params.n_ubatch = 32;
    params.n_seq_max       = kind.n_seq;
    params.n_threads       = params.n_threads_batch = 1;
    params.type_k          = kind.type_k;
    params.type_v          = kind.type_v;
    params.flash_attn_type = kind.flash_attn ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    params.kv_unified      = kind.unified;
    params.swa_full        = kind.swa_full;

    fuzzer f;
    f.gen.seed(seed);
    f.n_seq    = kind.n_seq;
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
        if (f.chance(0.3)) {
            call_scores(f);
        }
        if (f.chance(0.3)) {
            call_turn(f, kind.unified, has_more);
        }
        call(f, kind.unified, has_more);
    }

    printf("%s (%s): %zu compactions, %zu refused for shared cells, %zu bad calls, %zu scores, %zu thinned, %zu turned\n",
            path.substr(path.find_last_of('/') + 1).c_str(), kind.name, f.n_ok, f.n_shared, f.n_bad, f.n_scores, f.n_thinned, f.n_turned);

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

    for (const auto change : { llama_memory_seq_compact, llama_memory_seq_thin, llama_memory_seq_turn }) {
        if (change(nullptr, 0, nullptr, 0, 0, 0, 0) != LLAMA_COMPACT_ERR_CONTEXT) {
            fail("no context must be an error");
        }
    }
    if (llama_memory_seq_score_keys(nullptr, 0, 0, nullptr, 0) != LLAMA_COMPACT_ERR_CONTEXT ||
        llama_memory_seq_score_attention(nullptr, 0, nullptr, 0) != LLAMA_COMPACT_ERR_CONTEXT ||
        llama_memory_set_n_query(nullptr, 1, false) != LLAMA_COMPACT_ERR_CONTEXT || llama_memory_n_query(nullptr, 0) != 0) {
        fail("no context must be an error of scores");
    }
    for (int i = 3; i < argc; ++i) {
        for (const auto & kind : KINDS) {
            run(argv[i], kind, seed++, n_calls);
        }
    }

    llama_backend_free();
    return 0;
}
