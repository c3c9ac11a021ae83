// Good plans, bad ones, and the rules of llama-lacache.h in other words than the implementation's.

#include "fuzz_compact.h"

#include <algorithm>
#include <climits>
#include <iterator>
#include <set>

plan good_plan(fuzzer & f, llama_seq_id seq, int32_t n_layer) {
    const int32_t n_cells  = f.cells[seq].size();
    const int32_t n_kept   = f.chance(0.1) ? (f.chance(0.5) ? 1 : n_cells) : f.pick(1, n_cells);
    const int32_t n_pinned = f.chance(0.5) ? f.pick(0, n_kept) : 0;

    plan p;
    p.thin = f.chance(0.5);
    p.seq = seq; p.n_layer = n_layer; p.n_kept = n_kept;
    if (f.chance(0.5) && !llama_memory_compact_head_reason(f.ctx)) {
        p.n_head = llama_memory_compact_n_head_kv(f.ctx);
    }
    p.n_keep = p.n_stored = (size_t) n_layer*p.n_head*n_kept;
    p.keep.reset(new int32_t[p.n_stored]);

    for (int32_t ir = 0; ir < n_layer*p.n_head; ++ir) {
        int32_t * row = p.keep.get() + (size_t) ir*n_kept;
        if (ir > 0 && f.chance(0.4)) { // layers of a ladder share patterns
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

int32_t strange(fuzzer & f) {
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

void spoil(fuzzer & f, plan & p, int32_t n_cells) {
    const auto entry = [&]() -> int32_t & { return p.keep[f.pick(0, p.n_stored - 1)]; };

    switch (f.pick(0, 12)) {
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
        case 11: p.n_head = f.chance(0.5) ? strange(f) : f.pick(0, 4); break;
        case 12: // all at once
            p.seq = strange(f); p.n_head = strange(f); p.n_layer = strange(f); p.n_kept = strange(f); p.n_keep = (size_t) strange(f);
            for (size_t i = 0; i < p.n_stored; ++i) { p.keep[i] = strange(f); }
            break;
    }
    restore_promise(f, p);
}

bool is_allowed(const fuzzer & f, const plan & p, int32_t n_layer) {
    if (p.n_head != 1 && (llama_memory_compact_head_reason(f.ctx) || p.n_head != llama_memory_compact_n_head_kv(f.ctx))) {
        return false;
    }
    if (p.seq < 0 || p.seq >= f.n_seq || n_layer == 0 || p.n_layer != n_layer || !p.keep) {
        return false;
    }
    const int64_t n_cells = f.cells[p.seq].size();
    if (p.n_kept < 1 || p.n_kept > n_cells || p.n_keep != (size_t) n_layer*p.n_head*p.n_kept) {
        return false;
    }
    for (int32_t ir = 0; ir < n_layer*p.n_head; ++ir) {
        std::set<int32_t> seen;
        int32_t last = -1;
        for (int32_t i = 0; i < p.n_kept; ++i) {
            const int32_t c = p.keep[(size_t) ir*p.n_kept + i];
            if (c < 0 || c >= n_cells || c < last || !seen.insert(c).second) {
                return false;
            }
            last = c;
        }
    }
    return true;
}

bool is_shared(const fuzzer & f, llama_seq_id seq, int32_t i) {
    for (llama_seq_id other = 0; other < f.n_seq; ++other) {
        const auto & theirs = f.cells[other];
        if (other != seq && std::find(theirs.begin(), theirs.end(), f.cells[seq][i]) != theirs.end()) {
            return true;
        }
    }
    return false;
}

bool rewrites_shared(const fuzzer & f, const plan & p) {
    // cell i keeps its position if the first one does
    const llama_pos pos0  = p.thin ? f.pos_next[p.seq] - p.n_kept : 0;
    int32_t         first = pos0 == f.pos0(p.seq) ? p.n_kept : 0;
    for (size_t i = 0; i < p.n_keep; ++i) {
        if (p.keep[i] != (int32_t) (i % p.n_kept)) {
            first = std::min<int32_t>(first, i % p.n_kept);
        }
    }
    for (int32_t i = first; i < p.n_kept; ++i) {
        if (is_shared(f, p.seq, i)) {
            return true;
        }
    }
    return false;
}
