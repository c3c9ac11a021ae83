// Calls of llama_memory_seq_turn(), good and bad, and what the header says of them.

#include "fuzz_compact.h"

#include <algorithm>

static constexpr int64_t TURN_MAX = LLAMA_LACACHE_TURN_MAX;

struct turn_call {
    llama_seq_id seq = 0;
    size_t    n_turn  = 0;
    int32_t   n_layer = 0;
    int32_t   n_head  = 1;
    llama_pos shift   = 0;

    std::unique_ptr<int32_t[]> turn; // exactly n_stored elements
    size_t n_stored = 0;
};

static turn_call good_turn(fuzzer & f, llama_seq_id seq, int32_t n_layer) {
    turn_call t;
    t.seq = seq; t.n_layer = n_layer;
    if (f.chance(0.5) && !llama_memory_compact_head_reason(f.ctx)) {
        t.n_head = llama_memory_compact_n_head_kv(f.ctx);
    }
    t.n_turn = t.n_stored = (size_t) n_layer*t.n_head*f.cells[seq].size();
    t.turn.reset(new int32_t[t.n_stored]);

    const double share = f.chance(0.3) ? 0.0 : f.chance(0.5) ? 1.0 : 0.2; // of rows that turn
    const bool   own   = f.chance(0.5);                                   // by an angle of its own
    for (size_t i = 0; i < t.n_stored; ++i) {
        t.turn[i] = !f.chance(share) ? 0 : own ? f.pick(-300, 300) : -5;
    }
    t.shift = f.chance(0.3) ? 0 : f.pick(-(int64_t) f.pos0(seq), 50);
    return t;
}

static void spoil(fuzzer & f, turn_call & t) {
    switch (f.pick(0, 7)) {
        case 0: t.seq     = strange(f);                                  break;
        case 1: t.n_layer = strange(f);                                  break;
        case 2: t.n_head  = f.chance(0.5) ? strange(f) : f.pick(0, 4);   break;
        case 3: t.n_turn  = f.chance(0.5) ? (size_t) strange(f) : t.n_turn + f.pick(-2, 2); break;
        case 4: t.turn.reset(); t.n_stored = 0;                          return;
        case 5: t.shift   = strange(f);                                  break;
        case 6: t.shift   = -f.pos0(f.pick(0, f.n_seq - 1)) - f.pick(-1, 1); break;
        case 7: // an entry near or beyond what is possible
            if (t.n_stored > 0) {
                const int64_t near = (f.chance(0.5) ? TURN_MAX : -TURN_MAX) + f.pick(-1, 1);
                t.turn[f.pick(0, t.n_stored - 1)] = f.chance(0.5) ? strange(f) : (int32_t) near;
            }
            break;
    }
    // turn points to n_turn elements, as the caller promises, where memory allows
    if (t.n_turn != t.n_stored && t.n_turn <= (1u << 20)) {
        std::unique_ptr<int32_t[]> turn(new int32_t[t.n_turn]());
        std::copy(t.turn.get(), t.turn.get() + std::min(t.n_turn, t.n_stored), turn.get());
        t.turn = std::move(turn);
        t.n_stored = t.n_turn;
    }
}

// the rules of the header in other words than the implementation's
static bool is_allowed(const fuzzer & f, const turn_call & t, int32_t n_layer) {
    if (t.n_head != 1 && (llama_memory_compact_head_reason(f.ctx) || t.n_head != llama_memory_compact_n_head_kv(f.ctx))) {
        return false;
    }
    if (t.seq < 0 || t.seq >= f.n_seq || f.cells[t.seq].empty() || n_layer == 0 || t.n_layer != n_layer || !t.turn) {
        return false;
    }
    if (t.n_turn != (size_t) n_layer*t.n_head*f.cells[t.seq].size()) {
        return false;
    }
    if ((int64_t) f.pos0(t.seq) + t.shift < 0 || (int64_t) f.pos_next[t.seq] - 1 + t.shift > TURN_MAX) {
        return false;
    }
    return std::all_of(t.turn.get(), t.turn.get() + t.n_turn, [](int64_t x) { return -TURN_MAX <= x && x <= TURN_MAX; });
}

static bool changes_shared(const fuzzer & f, const turn_call & t) {
    const size_t n_cells = f.cells[t.seq].size();
    for (size_t i = 0; i < t.n_turn; ++i) {
        if ((t.shift != 0 || t.turn[i] != 0) && is_shared(f, t.seq, i % n_cells)) {
            return true;
        }
    }
    return false;
}

void call_turn(fuzzer & f, bool unified, bool has_more) {
    const int32_t n_layer = llama_memory_compact_n_layer(f.ctx);

    turn_call t = good_turn(f, f.pick(0, f.n_seq - 1), std::max(1, n_layer));
    if (f.chance(0.6)) {
        spoil(f, t);
    }

    std::vector<uint8_t> before[N_SEQ];
    for (llama_seq_id s = 0; s < f.n_seq; ++s) {
        before[s] = state(f.ctx, s);
    }
    const auto all = state(f.ctx, -1);

    const bool    allowed = is_allowed(f, t, n_layer);
    const int32_t status  = llama_memory_seq_turn(f.ctx, t.seq, t.turn.get(), t.n_turn, t.n_layer, t.n_head, t.shift);

    const std::string what = "turn seq " + std::to_string(t.seq) + ", n_turn " + std::to_string(t.n_turn) + ", n_layer " +
            std::to_string(t.n_layer) + ", n_head " + std::to_string(t.n_head) + ", shift " + std::to_string(t.shift) + ": " +
            llama_compact_status_str(status);

    const bool shared = allowed && unified && changes_shared(f, t);

    if (status != LLAMA_COMPACT_OK) {
        if (state(f.ctx, -1) != all) {
            fail("a refused call changed the memory (" + what + ")");
        }
        if (status == LLAMA_COMPACT_ERR_SHARED) {
            // what else a memory holds only shifts, and is shared by rules of its own
            if (!allowed || !(shared || (has_more && t.shift != 0))) {
                fail("nothing shared would have changed (" + what + ")");
            }
            ++f.n_shared;
            return;
        }
        if (allowed) {
            fail("an allowed turn was refused (" + what + ")");
        }
        ++f.n_bad;
        return;
    }

    if (!allowed || shared) {
        fail("a forbidden turn was carried out (" + what + ")");
    }
    for (llama_seq_id s = 0; s < f.n_seq; ++s) {
        if (s != t.seq && state(f.ctx, s) != before[s]) {
            fail("another sequence changed (" + what + ")");
        }
    }

    f.pos_next[t.seq] += t.shift;

    if (llama_memory_seq_n_cells(f.ctx, t.seq) != (int32_t) f.cells[t.seq].size() ||
        llama_memory_seq_pos_max(llama_get_memory(f.ctx), t.seq) != f.pos_next[t.seq] - 1) {
        fail("wrong number of cells or last position (" + what + ")");
    }
    if (t.shift == 0 && std::count(t.turn.get(), t.turn.get() + t.n_turn, 0) == (int64_t) t.n_turn && state(f.ctx, -1) != all) {
        fail("a turn by nothing changed something (" + what + ")");
    }

    f.n_recorded = 0;
    ++f.n_turned;
}
