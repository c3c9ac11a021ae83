"""Do the policies do what was published? Perplexity and kept tokens against an independent float32 computation.

Held constant: the first 3,000 predicted tokens of Wikitext-2 as token ids of the reference, no BOS, 256 cells per
layer, token-by-token eviction (n_ubatch 1), f16 KV, 4 sinks. The reference dequantizes the weights; the engine also
quantizes activations, so single tokens differ a little and the average should not. The full cache gets 3,072 cells.
Columns: perplexity here and in the reference, their ratio, mean |difference| of the per-token NLL (nats), and whether
every layer ends up holding exactly the tokens that the reference holds. Wanted: ratio within 2 % and kept tokens
equal.

    python benchmarks/parity.py --json-out benchmarks/results/2026-01-31-parity.json
"""

from __future__ import annotations

import time

import numpy as np
from common import DATA, check, parser, progress, report, table

from lacache_gguf import Engine, Full, Ladder, SinkWindow

REFERENCE = DATA / "reference_wikitext2_c256.npz"
RUNS = {
    "full": (Full(), 3072),
    "sink_window": (SinkWindow(n_sink=4), 256),
    "ladder_15_0": (Ladder(span=15, overlap=0, n_sink=4), 256),
    "ladder_8_4": (Ladder(span=8, overlap=4, n_sink=4), 256),
}


def main() -> None:
    args = parser(__doc__).parse_args()
    if not REFERENCE.is_file():
        raise SystemExit(f"{REFERENCE.name} is not in {REFERENCE.parent}; set LACACHE_BENCH_DATA to its folder")
    reference = np.load(REFERENCE)
    tokens = reference["ids"][: 301 if args.quick else None]
    rows, results = [], {}
    for name, (policy, n_ctx) in RUNS.items():
        progress(f"{name}: {len(tokens) - 1} tokens through {n_ctx} cells")
        with Engine(args.model, n_ctx=n_ctx, policy=policy, n_threads=args.threads) as engine:
            start = time.perf_counter()
            nll = engine.nll(tokens, n_ubatch=1)
            seconds = time.perf_counter() - start
            stats = engine.stats
            is_equal = None  # the reference tells what is held at its end only, and a full cache holds everything
            if f"kept_{name}" in reference and not args.quick:
                is_equal = bool(np.array_equal(engine.held, reference[f"kept_{name}"]))
        expected = reference[f"nll_{name}"][: len(nll)]
        ppl, ppl_reference = (float(np.exp(x.astype(np.float64).mean())) for x in (nll, expected))
        results[name] = {
            "perplexity": ppl,
            "perplexity_reference": ppl_reference,
            "ratio": ppl / ppl_reference,
            "mean_abs_nll_difference_nats": float(np.abs(nll - expected).mean()),
            "kept_equal": is_equal,
            "n_compactions": stats.n_compactions,
            "tokens_per_s": len(nll) / seconds,
            "policy": repr(policy),
            "n_cells": n_ctx,
        }
        difference = results[name]["mean_abs_nll_difference_nats"]
        equal = "-" if is_equal is None else "yes" if is_equal else "NO"
        rows.append(
            [name, f"{ppl:.3f}", f"{ppl_reference:.3f}", f"{ppl / ppl_reference:.4f}", f"{difference:.4f}", equal]
        )
    table(["policy", "perplexity", "reference", "ratio", "|dNLL|", "kept equal"], rows)
    checks = [check(f"{name}: perplexity / reference", x["ratio"], 1.02, 0.98) for name, x in results.items()]
    checks += [
        check(f"{name}: every layer holds the reference's tokens", x["kept_equal"], at_least=1)
        for name, x in results.items()
        if x["kept_equal"] is not None
    ]
    settings = {"n_predicted": len(tokens) - 1, "n_ubatch": 1, "type_k": "f16", "type_v": "f16"}
    report("parity", args, settings, results, checks)


if __name__ == "__main__":
    main()
