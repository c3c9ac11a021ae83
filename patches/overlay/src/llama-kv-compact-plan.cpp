// from the caller's rectangle of cells to the rows that one cache moves; reads the cell table, changes nothing

#include "llama-kv-compact.h"

#include "llama-kv-cache.h"

#include <algorithm>
#include <functional>

static bool is_shared(const llama_kv_cells & cells, uint32_t i) {
    return cells.seq_count(i) > 1;
}

// cells of a sequence in order of position; plans count in this order
struct seq_cells {
    seq_cells(const llama_kv_cache & kv, llama_seq_id seq_id) {
        for (const auto & pc : kv.get_cells(seq_id).seq_pos_get(seq_id)) {
            pos .push_back(pc.first);
            cell.push_back(pc.second);
        }
    }

    std::vector<llama_pos> pos;
    std::vector<uint32_t>  cell;
};

// Layers with equal boxes [n_head, n] of numbers share one pattern of rows; add() makes the rows of a new one.
static llama_compact_status plan_layers(
                 const int32_t * boxes,
                       int32_t   n_layer,
                        size_t   n_box,
         llama_kv_compact_plan & plan,
        const std::function<llama_compact_status(const int32_t * box, llama_kv_compact_rows & rows)> & add) {
    std::vector<const int32_t *> first; // first layer of each distinct pattern

    for (int32_t il = 0; il < n_layer; ++il) {
        const int32_t * box = boxes + il*n_box;

        const auto it = std::find_if(first.begin(), first.end(), [&](const int32_t * other) {
            return std::equal(box, box + n_box, other);
        });

        plan.index.push_back(it - first.begin());

        if (it != first.end()) {
            continue;
        }

        llama_kv_compact_rows rows;

        const auto status = add(box, rows);
        if (status != LLAMA_COMPACT_OK) {
            return status;
        }

        first.push_back(box);
        plan.rows.push_back(std::move(rows));
    }

    return LLAMA_COMPACT_OK;
}

llama_compact_status llama_kv_compact_plan_attn(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                 const int32_t * keep,
                       int32_t   n_layer,
                       int32_t   n_head,
                       int32_t   n_kept,
                          bool   thin,
         llama_kv_compact_plan & plan) {
    const auto & cells = kv.get_cells(seq_id);

    const seq_cells seq(kv, seq_id);
    const auto & [pos, cell] = seq;

    const int32_t   n_cells = cell.size();
    const llama_pos pos0    = thin ? pos.back() - (n_kept - 1) : 0; // of the first cell that is left

    if (pos0 < 0) {
        return LLAMA_COMPACT_ERR_RANGE; // there are several cells at one position
    }

    plan.strm   = kv.get_stream(seq_id);
    plan.seq_id = seq_id;
    plan.n_head = n_head;

    int32_t i_min = n_kept; // cells below it stay as they are in every layer

    const auto add = [&](const int32_t * box, llama_kv_compact_rows & rows) {
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

        for (auto * numbers : { &rows.src, &rows.dst, &rows.delta }) {
            numbers->reserve((size_t) n_head*n_kept);
        }

        // row[i] >= i, so a block of destinations never holds a source of a later block; heads do not meet
        for (int32_t h = 0; h < n_head; ++h) {
            for (int32_t i = 0; i < n_kept; ++i) {
                const int32_t j     = box[(size_t) h*n_kept + i];
                const int32_t delta = thin ? 0 : i - pos[j];

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

        return LLAMA_COMPACT_OK;
    };

    const auto status = plan_layers(keep, n_layer, (size_t) n_head*n_kept, plan, add);
    if (status != LLAMA_COMPACT_OK) {
        return status;
    }

    for (int32_t i = 0; i < n_kept; ++i) {
        const bool renumbered = pos[i] != pos0 + i;

        if ((i >= i_min || renumbered) && is_shared(cells, cell[i])) {
            return LLAMA_COMPACT_ERR_SHARED;
        }
        if (renumbered) {
            plan.pos.emplace_back(cell[i], pos0 + i);
        }
    }
    for (int32_t i = n_kept; i < n_cells; ++i) {
        plan.rm.push_back(cell[i]);
    }

    return LLAMA_COMPACT_OK;
}

llama_compact_status llama_kv_compact_plan_turn(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                 const int32_t * turn,
                       int32_t   n_layer,
                       int32_t   n_head,
                     llama_pos   shift,
         llama_kv_compact_plan & plan) {
    const seq_cells seq(kv, seq_id);
    const auto & [pos, cell] = seq;

    const size_t n_box = n_head*cell.size();

    // a position is at most INT32_MAX, so the sums are computed wider
    if ((int64_t) pos.front() + shift < 0 || (int64_t) pos.back() + shift > LLAMA_LACACHE_TURN_MAX) {
        return LLAMA_COMPACT_ERR_RANGE;
    }

    plan.strm   = kv.get_stream(seq_id);
    plan.seq_id = seq_id;
    plan.n_head = n_head;

    std::vector<bool> turns(cell.size()); // in any layer or head

    const auto add = [&](const int32_t * box, llama_kv_compact_rows & rows) {
        for (int32_t h = 0; h < n_head; ++h) {
            for (size_t i = 0; i < cell.size(); ++i) {
                const int32_t delta = box[h*cell.size() + i];

                if (delta < -LLAMA_LACACHE_TURN_MAX || delta > LLAMA_LACACHE_TURN_MAX) {
                    return LLAMA_COMPACT_ERR_RANGE;
                }
                if (delta != 0) {
                    turns[i] = true;

                    rows.src  .push_back(cell[i]*n_head + h);
                    rows.dst  .push_back(cell[i]*n_head + h);
                    rows.delta.push_back(delta);
                }
            }
        }
        rows.turns = !rows.src.empty();

        return LLAMA_COMPACT_OK;
    };

    const auto status = plan_layers(turn, n_layer, n_box, plan, add);
    if (status != LLAMA_COMPACT_OK) {
        return status;
    }

    for (size_t i = 0; i < cell.size(); ++i) {
        if ((turns[i] || shift != 0) && is_shared(kv.get_cells(seq_id), cell[i])) {
            return LLAMA_COMPACT_ERR_SHARED;
        }
        if (shift != 0) {
            plan.pos.emplace_back(cell[i], pos[i] + shift);
        }
    }

    return LLAMA_COMPACT_OK;
}

llama_compact_status llama_kv_compact_plan_shift(
          const llama_kv_cache & kv,
                  llama_seq_id   seq_id,
                     llama_pos   first,
                     llama_pos   shift,
         llama_kv_compact_plan & plan) {
    const auto & cells = kv.get_cells(seq_id);

    plan.strm   = kv.get_stream(seq_id);
    plan.seq_id = seq_id;
    plan.rows.resize(1);
    plan.index.resize(kv.get_layer_ids().size(), 0);

    auto & rows = plan.rows[0];
    rows.turns = shift != 0;

    for (const auto & pc : cells.seq_pos_get(seq_id)) {
        if (pc.first < first) {
            plan.rm.push_back(pc.second);
            continue;
        }
        if (shift == 0) {
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
