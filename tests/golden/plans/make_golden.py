"""Writes the plans beside it, once and for all, from the oracle (never from the code they test).

    python tests/golden/plans/make_golden.py

Each file: the policy and its settings, what it was shown (view), and the plan it must answer (keep, cursor, sweep).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import numpy as np  # noqa: E402
from reference import cascade_oracle, ladder_oracle  # noqa: E402
from reference import scored_oracle as oracle  # noqa: E402

LADDERS = {
    "ladder_l4_s1_o0": ({"span": 1, "n_sink": 2, "n_recent": 2}, {"n_layer": 4, "n_cells": 16, "n_free": 9}),
    "ladder_l4_s2_o0": ({"span": 2, "n_sink": 2, "n_recent": 2}, {"n_layer": 4, "n_cells": 16, "n_free": 6}),
    "ladder_l8_s4_o2_two_sweeps": ({"span": 4, "overlap": 2}, {"n_layer": 8, "n_cells": 40, "n_free": 17}),
    "ladder_l6_s3_o1_contiguous": (
        {"span": 3, "overlap": 1, "n_recent": 5, "layers": "contiguous"},
        {"n_layer": 6, "n_cells": 32, "n_free": 4, "n_pinned": 7, "cursor": 9, "sweep": 3},
    ),
    "ladder_l8_s4_o0_digit_wraps": (
        {"span": 4, "n_sink": 1, "n_recent": 3, "layers": "digit"},
        {"n_layer": 8, "n_cells": 24, "n_free": 12, "cursor": 15, "sweep": 1},
    ),
    "ladder_l30_s15_o0_one": ({"span": 15}, {"n_layer": 30, "n_cells": 48, "n_free": 1, "cursor": 15, "sweep": 2}),
}

PER_HEAD = ("salience", "keydiff", "h2o", "snapkv", "cascade")  # if nothing else is said
# Policy, settings, view without its scores.
SCORED = {
    "keydiff_l2_h2": (
        "keydiff",
        {"n_sink": 2, "n_recent": 4},
        {"n_layer": 2, "n_cells": 16, "n_free": 5, "n_head_kv": 2},
    ),
    "scored_ladder_l3_h2_wraps": (
        "scored_ladder",
        {"n_sink": 1, "n_recent": 5, "n_src": 3, "n_dst": 2},
        {"n_layer": 3, "n_cells": 24, "n_free": 9, "n_pinned": 3, "cursor": 12, "sweep": 2, "n_head_kv": 2},
    ),
    "salience_l2_h2": (  # every kind of score is the same here
        "salience",
        {"n_sink": 2, "n_recent": 4, "surprise": 2.0},
        {"n_layer": 2, "n_cells": 20, "n_free": 6, "n_head_kv": 2},
    ),
    "random_l3": (
        "random",
        {"n_recent": 3, "seed": 7},
        {"n_layer": 3, "n_cells": 20, "n_free": 6, "sweep": 4},
    ),
    "tova_l3_h2": ("tova", {"n_recent": 1}, {"n_layer": 3, "n_cells": 16, "n_free": 5, "n_head_kv": 2}),
    "h2o_l2_h2": ("h2o", {"n_recent": None}, {"n_layer": 2, "n_cells": 18, "n_free": 5, "n_head_kv": 2}),
    "snapkv_l2_h2": (
        "snapkv",
        {"n_sink": 1, "n_recent": 6, "n_pool": 5},
        {"n_layer": 2, "n_cells": 24, "n_free": 7, "n_head_kv": 2},
    ),
    "cascade_l2_h2": (
        "cascade",
        {"n_cascade": 3, "n_sink": 2},
        {"n_layer": 2, "n_cells": 24, "n_free": 6, "cursor": 17, "sweep": 101, "n_head_kv": 2},
    ),
}


def scored_golden(policy: str, settings: dict, view: dict) -> dict:
    """What the oracle answers; scores are digits, so that there are ties and a mean is exact."""
    n_layer, n_head, n_cells = view["n_layer"], view.get("n_head_kv", 1), view["n_cells"]
    rng = np.random.default_rng([n_layer, n_head, n_cells])
    scores = rng.integers(0, 10, (n_layer, n_head, n_cells)).tolist()
    if policy == "random":
        lots = np.random.default_rng([settings["seed"], view["sweep"]])
        rows = lots.random((n_layer, 1, n_cells), dtype=np.float32).tolist()
    else:
        view = {**view, "scores": scores}
        rows = oracle.rows_of(scores, "each" if policy in PER_HEAD else "layer")
    n_first = max(settings.get("n_sink", 0 if policy in ("tova", "h2o") else 4), view.get("n_pinned", 0))
    n_tail = oracle.n_tail_of(settings.get("n_recent", 1), n_cells)
    known = {"n_free": view["n_free"], "n_first": n_first}
    cursor, sweep = 0, view.get("sweep", 0) + 1 if policy == "random" else 0
    resume = {"cursor": view.get("cursor", 0), "sweep": view.get("sweep", 0)}
    keep: list = []
    for layer in rows:
        keep.append([])
        for row in layer:
            if policy == "scored_ladder":
                rung = {"n_src": settings["n_src"], "n_dst": settings["n_dst"]}
                kept, cursor, sweep = oracle.thin_rungs(row, **known, n_tail=n_tail, **rung, **resume)
            elif policy == "cascade":
                kept, cursor, sweep = cascade_oracle.replan(row, **known, n_cascade=settings["n_cascade"], **resume)
            else:
                row = oracle.pooled(row, n_tail, settings["n_pool"]) if policy == "snapkv" else row
                if policy == "salience":
                    signs = [(1.0, row), (2.0, row), (settings["surprise"], row)]
                    row = oracle.added_ranks(signs, fade=0.25, ages=row)
                kept = oracle.drop_lowest(row, **known, n_tail=n_tail)
            keep[-1].append(kept)
    keep = keep if policy in PER_HEAD else [layer[0] for layer in keep]
    return {"policy": policy, "settings": settings, "view": view, "plan": dict(keep=keep, cursor=cursor, sweep=sweep)}


def goldens() -> dict[str, dict]:
    """File stem -> contents."""
    answers = {}
    for stem, (settings, view) in LADDERS.items():
        keep, cursor, sweep = ladder_oracle.evict(**settings, **view)
        plan = {"keep": keep, "cursor": cursor, "sweep": sweep}
        answers[stem] = {"policy": "ladder", "settings": settings, "view": view, "plan": plan}
    answers["sink_window_l3"] = {
        "policy": "sink_window",
        "settings": {"n_sink": 2},
        "view": {"n_layer": 3, "n_cells": 12, "n_free": 5, "n_pinned": 3},
        "plan": {"keep": [[0, 1, 2, 8, 9, 10, 11]] * 3, "cursor": 0, "sweep": 0},
    }
    answers |= {stem: scored_golden(*case) for stem, case in SCORED.items()}
    return answers


def as_text(answer: dict) -> str:
    """JSON with one matrix row a line, so that a diff can be read."""
    rows = ",\n      ".join(json.dumps(row) for row in answer["plan"]["keep"])
    head = [f'  "{key}": {json.dumps(answer[key])}' for key in ("policy", "settings", "view")]
    tail = f'"cursor": {answer["plan"]["cursor"]}, "sweep": {answer["plan"]["sweep"]}'
    plan = f'  "plan": {{\n    "keep": [\n      {rows}\n    ],\n    {tail}\n  }}'
    return "{\n" + ",\n".join([*head, plan]) + "\n}\n"


if __name__ == "__main__":
    for stem, answer in goldens().items():
        (HERE / f"{stem}.json").write_text(as_text(answer), encoding="utf-8")
