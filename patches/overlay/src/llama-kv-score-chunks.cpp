#include "llama-kv-score.h"

#include <algorithm>

// cells of a block: positions without a gap
static constexpr int64_t SCORE_B = 32;

// blocks of SCORE_B cells where positions have no gap, blocks of one cell elsewhere; at most n_max cells a chunk
std::vector<llama_kv_score_chunk> llama_kv_score_chunks(
        const std::vector<uint32_t> & cell, const std::vector<llama_pos> & pos, int64_t n_max) {
    const int64_t n = cell.size();

    std::vector<int64_t> blocks;
    std::vector<int64_t> lone;

    // first and last position do not tell: several cells may have one position, and a gap make up for it
    const auto is_block = [&](int64_t i) {
        int64_t b = 1;
        while (b < SCORE_B && i + b < n && pos[i + b] == pos[i] + b) {
            ++b;
        }
        return b == SCORE_B;
    };

    for (int64_t i = 0; i < n;) {
        if (is_block(i)) {
            blocks.push_back(i);
            i += SCORE_B;
        } else {
            lone.push_back(i++);
        }
    }

    std::vector<llama_kv_score_chunk> res;

    const auto add = [&](const std::vector<int64_t> & starts, int64_t n_b) {
        const int64_t n_a_max = std::max<int64_t>(1, n_max/n_b);

        for (int64_t a0 = 0; a0 < (int64_t) starts.size(); a0 += n_a_max) {
            llama_kv_score_chunk chunk;

            chunk.n_a = std::min<int64_t>(n_a_max, starts.size() - a0);
            chunk.n_b = n_b;

            for (int64_t b = 0; b < n_b; ++b) {
                chunk.own.push_back(-b);
                for (int64_t a = 0; a < chunk.n_a; ++a) {
                    chunk.order.push_back(starts[a0 + a] + b);
                    chunk.cell .push_back(cell[starts[a0 + a] + b]);
                }
            }
            for (int64_t a = 0; a < chunk.n_a; ++a) {
                chunk.pos .push_back( pos[starts[a0 + a]]);
                chunk.back.push_back(-pos[starts[a0 + a]]);
            }

            res.push_back(std::move(chunk));
        }
    };

    add(blocks, SCORE_B);
    add(lone, 1);

    return res;
}
