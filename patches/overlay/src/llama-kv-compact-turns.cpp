// which rows of a block turn by one angle: its sines and cosines are then computed once for all of them

#include "llama-kv-compact.h"

#include <map>

// Order the rows [i0, i0 + n) by how they turn, and say how many turn alone and four by four. A block reads all its
// rows before it writes one, so they may come in any order. Heads that keep different cells have many rows of few angles
static std::pair<int64_t, int64_t> group_by_turn(llama_kv_compact_rows & rows, int64_t i0, int64_t n) {
    const std::vector<int32_t> src  (rows.src  .begin() + i0, rows.src  .begin() + i0 + n);
    const std::vector<int32_t> dst  (rows.dst  .begin() + i0, rows.dst  .begin() + i0 + n);
    const std::vector<int32_t> delta(rows.delta.begin() + i0, rows.delta.begin() + i0 + n);

    std::map<int32_t, std::vector<int64_t>> same;
    int64_t i_same = 0;
    for (auto * last = &same[delta[0]]; i_same < n; ++i_same) {
        if (i_same > 0 && delta[i_same] != delta[i_same - 1]) {
            last = &same[delta[i_same]];
        }
        last->push_back(i_same);
    }

    std::vector<int64_t> own, quad;
    for (const auto & [d, list] : same) {
        if (d != delta[n - 1]) {
            const auto mid = list.begin() + list.size()/4*4;
            quad.insert(quad.end(), list.begin(), mid);
            own .insert(own .end(), mid, list.end());
        }
    }

    int64_t i = i0;
    for (const auto * list : { &own, &quad, &same.at(delta[n - 1]) }) {
        for (const int64_t j : *list) {
            rows.src[i] = src[j]; rows.dst[i] = dst[j]; rows.delta[i] = delta[j];
            ++i;
        }
    }

    return { own.size(), quad.size() };
}

// the same for rows that stay in their order: those at the end that turn by one angle
static std::pair<int64_t, int64_t> tail_by_turn(const llama_kv_compact_rows & rows, int64_t i0, int64_t n) {
    const int32_t * delta = rows.delta.data() + i0;

    int64_t n_own = n - 1;
    while (n_own > 0 && delta[n_own - 1] == delta[n - 1]) {
        --n_own;
    }

    return { n_own, 0 };
}

std::pair<int64_t, int64_t> llama_kv_compact_turns(
        llama_kv_compact_rows & rows, int64_t i0, int64_t n, int32_t n_head) {
    return n_head > 1 ? group_by_turn(rows, i0, n) : tail_by_turn(rows, i0, n);
}
