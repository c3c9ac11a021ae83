// from the caller's rectangle of cells to the rows that one cache moves; reads the cell table, changes nothing

#include "llama-kv-compact.h"

#include "llama-kv-cache.h"

#include <algorithm>
#include <map>

static bool is_shared(const llama_kv_cells & cells, uint32_t i) {
    return cells.seq_count(i) > 1;
}

llama_compact_status llama_kv_compact_plan_attn(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                 const int32_t * keep,
                       int32_t   n_layer,
                       int32_t   n_head,
                       int32_t   n_kept,
         llama_kv_compact_plan & plan) {
    const auto & cells = kv.get_cells(seq_id);

    // cells of the sequence in order of position; the plan counts in this order
    std::vector<uint32_t>  cell;
    std::vector<llama_pos> pos;
    for (const auto & pc : cells.seq_pos_get(seq_id)) {
        pos .push_back(pc.first);
        cell.push_back(pc.second);
    }

    const int32_t n_cells = cell.size();

    plan.strm   = kv.get_stream(seq_id);
    plan.seq_id = seq_id;
    plan.n_head = n_head;

    std::vector<const int32_t *> first; // first layer of each distinct pattern
    int32_t i_min = n_kept;             // cells below it stay as they are in every layer

    const size_t n_box = (size_t) n_head*n_kept; // of one layer

    for (int32_t il = 0; il < n_layer; ++il) {
        const int32_t * box = keep + il*n_box;

        const auto it = std::find_if(first.begin(), first.end(), [&](const int32_t * other) {
            return std::equal(box, box + n_box, other);
        });

        plan.index.push_back(it - first.begin());

        if (it != first.end()) {
            continue;
        }

        for (int32_t h = 0; h < n_head; ++h) {
            const int32_t * row = box + (size_t) h*n_kept;

            for (int32_t i = 0; i < n_kept; ++i) {
                if (row[i] < 0 || row[i] >= n_cells) {
                    return LLAMA_COMPACT_ERR_RANGE;
                }
                if (i > 0 && row[i] <= row[i - 1]) {
                    return LLAMA_COMPACT_ERR_ORDER;
                }
            }
        }

        llama_kv_compact_rows rows;

        // row[i] >= i, so a block of destinations never holds a source of a later block; heads do not meet
        for (int32_t i = 0; i < n_kept; ++i) {
            for (int32_t h = 0; h < n_head; ++h) {
                const int32_t j     = box[(size_t) h*n_kept + i];
                const int32_t delta = i - pos[j];

                if (j == i && delta == 0) {
                    continue;
                }

                i_min = std::min(i_min, i);

                rows.src  .push_back(cell[j]*n_head + h);
                rows.dst  .push_back(cell[i]*n_head + h);
                rows.delta.push_back(delta);

                rows.moves |= j != i;
                rows.turns |= delta != 0;
            }
        }

        first.push_back(box);
        plan.rows.push_back(std::move(rows));
    }

    for (int32_t i = i_min; i < n_kept; ++i) {
        if (is_shared(cells, cell[i])) {
            return LLAMA_COMPACT_ERR_SHARED;
        }
        if (pos[i] != i) {
            plan.pos.emplace_back(cell[i], i);
        }
    }
    for (int32_t i = n_kept; i < n_cells; ++i) {
        plan.rm.push_back(cell[i]);
    }

    return LLAMA_COMPACT_OK;
}

llama_compact_status llama_kv_compact_plan_shift(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                     llama_pos   shift,
         llama_kv_compact_plan & plan) {
    const auto & cells = kv.get_cells(seq_id);

    plan.strm   = kv.get_stream(seq_id);
    plan.seq_id = seq_id;
    plan.rows.resize(1);
    plan.index.resize(kv.get_layer_ids().size(), 0);

    auto & rows = plan.rows[0];
    rows.turns = shift != 0;

    if (shift == 0) {
        return LLAMA_COMPACT_OK;
    }

    for (const auto & pc : cells.seq_pos_get(seq_id)) {
        if (pc.first + shift < 0) {
            plan.rm.push_back(pc.second);
            continue;
        }
        if (is_shared(cells, pc.second)) {
            return LLAMA_COMPACT_ERR_SHARED;
        }

        rows.src  .push_back(pc.second);
        rows.dst  .push_back(pc.second);
        rows.delta.push_back(shift);

        plan.pos.emplace_back(pc.second, pc.first + shift);
    }

    return LLAMA_COMPACT_OK;
}

// Order the rows [i0, i0 + n) by how they turn, and say how many turn alone and four by four. A block reads all its rows
// before it writes one, so they may come in any order. Heads that keep different cells have many rows of few angles
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

std::pair<int64_t, int64_t> llama_kv_compact_turns(llama_kv_compact_rows & rows, int64_t i0, int64_t n, int32_t n_head) {
    return n_head > 1 ? group_by_turn(rows, i0, n) : tail_by_turn(rows, i0, n);
}
