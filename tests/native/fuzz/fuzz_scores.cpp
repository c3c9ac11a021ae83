// Calls of what scores cells and records queries, good and bad, and what the header says of them.

#include "fuzz_compact.h"

#include <cmath>
#include <limits>

static void record(fuzzer & f) {
    const int32_t n_ctx   = llama_n_ctx_seq(f.ctx);
    const int32_t n_query = f.chance(0.3) ? strange(f) : f.chance(0.3) ? 0 : f.pick(1, 40);
    const int32_t status  = llama_memory_set_n_query(f.ctx, n_query, f.chance(0.5));

    const bool can_compact = !llama_memory_compact_reason(f.ctx);
    const bool can_record  = can_compact && f.n_seq == 1 && llama_memory_compact_n_head_kv(f.ctx) > 0;
    const bool allowed     = can_compact && (n_query == 0 || (can_record && n_query > 0 && n_query <= n_ctx));

    if (allowed != (status == LLAMA_COMPACT_OK)) {
        fail("recording " + std::to_string(n_query) + " queries: " + llama_compact_status_str(status));
    }
    if (can_record != !llama_memory_query_reason(f.ctx)) {
        fail("a reason that is none, or none that is one");
    }
    if (allowed) {
        f.n_query    = n_query;
        f.n_recorded = 0;
    }
}

void call_scores(fuzzer & f) {
    const auto all = state(f.ctx, -1);

    if (f.chance(0.1)) {
        record(f);
    }

    const bool   keys    = f.chance(0.5);
    const size_t n_layer = llama_memory_compact_n_layer(f.ctx);
    const size_t n_head  = llama_memory_compact_n_head_kv(f.ctx);

    llama_seq_id seq = f.pick(0, f.n_seq - 1);

    int64_t n_cells = f.cells[seq].size();
    int32_t first   = keys && n_cells > 0 && f.chance(0.5) ? f.pick(0, n_cells - 1) : 0;
    size_t  n       = n_layer*n_head*(n_cells - first);

    if (f.chance(0.2)) {
        seq     = strange(f);
        n_cells = seq >= 0 && seq < f.n_seq ? f.cells[seq].size() : 0;
    }
    if (keys && f.chance(0.2)) {
        first = f.chance(0.5) ? strange(f) : first + f.pick(-2, 2);
    }
    if (f.chance(0.2)) {
        n = f.chance(0.5) ? (size_t) strange(f) : n + f.pick(-2, 2);
    }

    bool allowed = n_layer*n_head > 0 && (keys || f.n_recorded > 0) &&
            first >= 0 && first < n_cells && n == n_layer*n_head*(n_cells - first);

    // as many elements as are promised, where memory allows
    std::unique_ptr<float[]> scores(new float[n < (1u << 20) ? n : 1]);
    for (size_t i = 0; i < n && n < (1u << 20); ++i) {
        scores[i] = std::numeric_limits<float>::quiet_NaN();
    }
    if (f.chance(0.05)) {
        scores.reset();
        allowed = false;
    }

    const int32_t status = keys
        ? llama_memory_seq_score_keys     (f.ctx, seq, first, scores.get(), n)
        : llama_memory_seq_score_attention(f.ctx, seq, scores.get(), n);

    const std::string what = std::string(keys ? "keys" : "attention") + " of seq " + std::to_string(seq) + ", first " + std::to_string(first) + ", n_scores " +
            std::to_string(n) + ": " + llama_compact_status_str(status);

    if (allowed != (status == LLAMA_COMPACT_OK)) {
        fail("a wrong status (" + what + ")");
    }
    if (state(f.ctx, -1) != all) {
        fail("scores changed the memory (" + what + ")");
    }
    for (llama_seq_id s = 0; s < f.n_seq; ++s) {
        if (llama_memory_n_query(f.ctx, s) != (f.cells[s].empty() ? 0 : f.n_recorded)) {
            fail("a wrong number of recorded queries (" + what + ")");
        }
    }
    if (!allowed) {
        ++f.n_bad;
        return;
    }

    const size_t n_row = n_cells - first;

    for (size_t i = 0; i < n; i += n_row) {
        double sum = 0.0;
        for (size_t c = 0; c < n_row; ++c) {
            const float score = scores[i + c];
            if (!(score >= (keys ? -1.001f : 0.0f) && score <= 1.001f)) {
                fail("a score of " + std::to_string(score) + " (" + what + ")");
            }
            sum += score;
        }
        if (!keys && std::fabs(sum - 1.0) > 1e-3) {
            fail("attention of " + std::to_string(sum) + " (" + what + ")");
        }
    }
    ++f.n_scores;
}
