// from the caller's rectangle of cells to the rows that one cache moves; reads the cell table, changes nothing

#include "llama-kv-compact.h"

#include "llama-kv-cache.h"

#include <algorithm>

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
