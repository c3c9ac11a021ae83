"""At equal cells, is it as fast as llama.cpp's own way out, context shift, while remembering more?

Held constant: 1,024 cells, a prompt of 512 tokens, 3,060 tokens generated greedily whatever they are (an end of text
does not end it), model file, threads, f16 KV, n_ubatch 512, flash attention as llama.cpp chooses it.
Ours: the ladder, through the public generator. Stock: the same commit unpatched, keeping the first
4 tokens and discarding half of the rest when the context is full, as llama.cpp's own programs do; from Python,
through low-level calls. The two take turns in rounds of 510 tokens, which is one period of the shift, so every round
holds the same work; the first round fills the memory and is left out of the medians. The mean number of cells in use
is shown because a shift leaves half of the budget empty and attends to less: equal budget, unequal memory. So a third
side takes its turns: stock with a quarter more cells, whose mean number of cells in use equals ours.
With one thread (-t 1) seconds are CPU seconds of the process that works, else wall time on a quiet machine.
Wanted: tokens/s at least equal.

    python benchmarks/context_shift.py --json-out benchmarks/results/2026-01-31-context_shift.json
"""

from __future__ import annotations

import numpy as np
from common import check, clock, generate, ladder, load_tokens, median, parser, progress, read, report, table
from stock import Stock, add_option, find_or_build

from lacache_gguf import Engine
from lacache_gguf.context import default_n_threads

N_KEEP = 4


def main() -> None:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--cells", type=int, default=1024)
    options.add_argument("--prompt", type=int, default=512, help="tokens")
    options.add_argument("--rounds", type=int, default=6, help="of half the cells each")
    args = options.parse_args()
    n_round = (args.cells - N_KEEP) // 2
    if args.quick:
        args.prompt, args.rounds, n_round = 960, 2, 70
    n_threads = args.threads or default_n_threads()
    now, kind = clock(n_threads), "cpu_seconds" if n_threads == 1 else "seconds"
    rates: dict[str, list[float]] = {"ours": [], "stock": [], "wide": []}
    cells: dict[str, list[float]] = {"stock": [], "wide": []}
    n_shifts, n_compactions, n_wide = {"stock": 0, "wide": 0}, [], args.cells * 5 // 4
    stock_lib = find_or_build(args.stock_lib)
    with (
        Engine(args.model, n_ctx=args.cells, policy=ladder(args.model, args.cells), n_threads=n_threads) as ours,
        Stock(stock_lib) as stock,
        Stock(stock_lib) as wide,
    ):
        prompt = load_tokens(ours, args.prompt).tolist()
        shifting = {"stock": (stock, args.cells), "wide": (wide, n_wide)}
        for side, n_ctx in shifting.values():
            settings = {"n_ubatch": 512, "n_threads": n_threads, "type_k": "f16", "type_v": "f16"}
            opened = side.open(model=str(ours.model.path), n_ctx=n_ctx, **settings)
            if opened["n_ctx"] != n_ctx:
                raise SystemExit(f"llama.cpp made {opened['n_ctx']} cells of {n_ctx}; choose a multiple of 1024")
            side.read(tokens=prompt)
        read(ours, prompt)
        for i in range(args.rounds):
            for name, (side, _) in shifting.items():
                answer = side.generate(n=n_round, n_keep=N_KEEP)
                n_shifts[name] += answer["n_shifts"]
                cells[name].append(answer["mean_cells"])
                rates[name].append(n_round / answer[kind])
            before = ours.stats
            rates["ours"].append(n_round / generate(ours, n_round, now))
            n_compactions.append(ours.stats.n_compactions - before.n_compactions)
            progress(f"round {i + 1}: " + ", ".join(f"{name} {rate[-1]:.1f}" for name, rate in rates.items()))
        policy, stats = ours.policy, ours.stats
    n_block = (n_round * (args.rounds - 1)) / max(1, sum(n_compactions[1:]))
    middle = {side: median(values[1:]) for side, values in rates.items()}
    results = {
        "ours_tokens_per_s": middle["ours"],
        "stock_tokens_per_s": middle["stock"],
        "ratio": middle["ours"] / middle["stock"],
        "ratio_by_round": [a / b for a, b in zip(rates["ours"], rates["stock"], strict=True)],
        "ours_tokens_per_s_rounds": rates["ours"],
        "stock_tokens_per_s_rounds": rates["stock"],
        "stock_mean_cells": float(np.mean(cells["stock"][1:])),
        "ours_mean_cells": args.cells - (n_block - 1) / 2,  # between two compactions it fills from full - block to full
        "n_shifts": n_shifts["stock"],
        "n_compactions": stats.n_compactions,
        "ours_compact_share": stats.compact_share,
        "wide_n_cells": n_wide,
        "wide_tokens_per_s": middle["wide"],
        "wide_tokens_per_s_rounds": rates["wide"],
        "wide_mean_cells": float(np.mean(cells["wide"][1:])),
        "ratio_to_wide": middle["ours"] / middle["wide"],
    }
    rows = [
        ["stock, context shift", args.cells, f"{middle['stock']:.1f}", f"{results['stock_mean_cells']:.0f}"],
        ["ours", args.cells, f"{middle['ours']:.1f}", f"{results['ours_mean_cells']:.0f}"],
        ["stock, context shift", n_wide, f"{middle['wide']:.1f}", f"{results['wide_mean_cells']:.0f}"],
    ]
    table(["", "cells", "tokens/s", "mean cells in use"], rows)
    print(f"ours / stock {results['ratio']:.3f}x; where as many cells are in use {results['ratio_to_wide']:.3f}x\n")
    settings |= {"policy": repr(policy), "n_keep": N_KEEP, "n_generated": n_round * args.rounds}
    report("context_shift", args, settings, results, [check("tokens/s, ours / stock", results["ratio"], at_least=1.0)])


if __name__ == "__main__":
    main()
