// rows of a block that turn by one angle, side by side: its sines and cosines are then computed once for all of them

#include "llama-kv-compact.h"

#include <algorithm>

// neighbours often turn alike, so runs of them are put in order, not rows
void llama_kv_compact_by_turn(llama_kv_compact_rows & rows, int64_t i0, int64_t n) {
    const std::vector<int32_t> src  (rows.src  .begin() + i0, rows.src  .begin() + i0 + n);
    const std::vector<int32_t> dst  (rows.dst  .begin() + i0, rows.dst  .begin() + i0 + n);
    const std::vector<int32_t> delta(rows.delta.begin() + i0, rows.delta.begin() + i0 + n);

    std::vector<int64_t> start; // of every run
    for (int64_t i = 0; i < n; ++i) {
        if (i == 0 || delta[i] != delta[i - 1]) {
            start.push_back(i);
        }
    }

    std::stable_sort(start.begin(), start.end(), [&](int64_t a, int64_t b) { return delta[a] > delta[b]; });

    for (int64_t i : start) {
        const int32_t d = delta[i];
        for (; i < n && delta[i] == d; ++i, ++i0) {
            rows.src[i0] = src[i]; rows.dst[i0] = dst[i]; rows.delta[i0] = d;
        }
    }
}
