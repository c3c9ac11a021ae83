"""How fast is a long history? 1,024 cells against the stock library with a full cache, and flatness.

Part 1, stock against ours at a history of 16k tokens. Same model file, threads, f16 KV, n_ubatch 512, flash attention
as llama.cpp chooses it, the same tokens. The two take turns: slices of 2,048 tokens are read by one, then by the
other, until both have read the whole prompt (tokens/s = tokens / sum of the slices); then they decode greedily in
turns (median of the rounds). Ours: the ladder, compactions included; what scores cost is policy_cost.py's question.
Stock runs in a process of its own (stock_worker.py), and 16k is beyond the 8,192 positions the model was trained on,
which changes its text but not its speed.
Part 2, ours alone. One engine reads on and saves its memory at every history length; then, in many short rounds,
another history first in each, every memory is loaded into that engine, reads 128 tokens and decodes 128, as many as a
compaction frees. So nothing differs but the history: engines of their own kept differences of several percent for as
long as they lived, which no second run repeated. A history's pace = median over the rounds of its tokens/s / the
round's mean. Flatness = largest / smallest pace - 1, wanted: at most 5 %. Wanted in part 1: decode >= 4.5x, read >=
3.5x.
With one thread (-t 1) all seconds are CPU seconds of the process that works, which other programs on the machine
hardly change; with more, wall time on a quiet machine. --part runs one part alone.

    python benchmarks/speed.py --stock-lib build/stock/build/bin --json-out benchmarks/results/2026-01-31-speed.json
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from common import (
    check,
    clock,
    generate,
    ladder,
    load_tokens,
    median,
    parser,
    progress,
    read,
    report,
    rotated,
    spread,
    table,
)  # fmt: skip
from stock import Stock, add_option, find_or_build

from lacache_gguf import Engine
from lacache_gguf.context import default_n_threads

SLICE, STOCK_DECODE = 2048, 128  # part 1, tokens
ROUND_READ, ROUND_DECODE = 128, 128  # part 2, tokens
FLAT_ROUNDS = 31  # of part 2


def against_stock(args, n_history: int, n_cells: int, n_decode: int, n_rounds: int) -> tuple[dict, dict]:
    """Part 1: (settings, results); both sides in turns."""
    n_threads = args.threads or default_n_threads()
    now, kind = clock(n_threads), "cpu_seconds" if n_threads == 1 else "seconds"
    policy, stock_lib = ladder(args.model, n_cells), find_or_build(args.stock_lib)
    with Engine(args.model, n_ctx=n_cells, policy=policy, n_threads=n_threads) as ours, Stock(stock_lib) as stock:
        tokens = load_tokens(ours, n_history).tolist()
        stock.open(
            model=str(ours.model.path), n_ctx=n_history + (n_rounds + 1) * n_decode, n_ubatch=512, n_threads=n_threads,
            type_k="f16", type_v="f16",
        )  # fmt: skip
        seconds: dict[str, list[float]] = {"ours": [], "stock": []}
        for first in range(0, n_history, SLICE):
            part = tokens[first : first + SLICE]
            seconds["stock"].append(stock.read(tokens=part)[kind])
            seconds["ours"].append(read(ours, part, now))
            progress(
                f"read {first + len(part)} tokens: stock {seconds['stock'][-1]:.1f} s, ours {seconds['ours'][-1]:.1f} s"
            )
        rates: dict[str, list[float]] = {"ours": [], "stock": []}
        for i in range(n_rounds + 1):  # the first round only warms up
            pair = {"stock": stock.generate(n=n_decode)[kind], "ours": generate(ours, n_decode, now)}
            progress(f"decode {n_decode} tokens: stock {pair['stock']:.1f} s, ours {pair['ours']:.1f} s")
            for side in rates:
                rates[side] += [n_decode / pair[side]] if i else []
        settings = {
            "policy": repr(ours.policy), "n_cells": n_cells, "n_history": n_history, "n_ubatch": 512, "kv_type": "f16",
            "n_decode_per_round": n_decode, "n_rounds": n_rounds, "stock_library": stock.library["library"],
        }  # fmt: skip
    results = {}
    for side in ("ours", "stock"):
        results[side] = {
            "read_tokens_per_s": n_history / sum(seconds[side]),
            "read_seconds_per_slice": seconds[side],
            "decode_tokens_per_s": median(rates[side]),
            "decode_tokens_per_s_rounds": rates[side],
        }
    for kind in ("read", "decode"):
        key = f"{kind}_tokens_per_s"
        results[f"{kind}_ratio"] = results["ours"][key] / results["stock"][key]
    return settings, results


def flatness(args, histories: list[int], n_cells: int, n_rounds: int, n_read: int, n_decode: int) -> dict:
    """Part 2: medians, paces and rounds per history."""
    rates = {n: {"read": [], "decode": []} for n in histories}
    now = clock(args.threads or default_n_threads())
    policy = ladder(args.model, n_cells)
    with (
        Engine(args.model, n_ctx=n_cells, policy=policy, n_threads=args.threads) as engine,
        tempfile.TemporaryDirectory() as folder,
    ):
        tokens = load_tokens(engine, max(histories) + n_read).tolist()
        files, n_cells_start = {n: Path(folder, f"{n}") for n in sorted(histories)}, {}
        for n, file in files.items():
            progress(f"reading up to a history of {n} tokens")
            read(engine, tokens[engine.stats.n_seen : n])
            engine.save(file)
            n_cells_start[n] = engine.stats.n_cells
        for i in range(n_rounds + 1):  # the first round only warms up
            for n in rotated(histories, i):
                engine.load(files[n])
                pair = {
                    "read": n_read / read(engine, tokens[n : n + n_read], now),
                    "decode": n_decode / generate(engine, n_decode, now),
                }
                for kind, rate in pair.items():
                    rates[n][kind] += [rate] if i else []
            progress(f"round {i} of {n_rounds}")
    results: dict = {
        str(n): {
            "read_tokens_per_s": median(rates[n]["read"]),
            "decode_tokens_per_s": median(rates[n]["decode"]),
            "read_tokens_per_s_rounds": rates[n]["read"],
            "decode_tokens_per_s_rounds": rates[n]["decode"],
            "n_cells": n_cells_start[n],
        }
        for n in histories
    }
    for kind in ("read", "decode"):
        all_rates = np.array([rates[n][kind] for n in histories])  # [history, round]
        paces = np.median(all_rates / all_rates.mean(axis=0), axis=1)
        for n, pace in zip(histories, paces.tolist(), strict=True):
            results[str(n)][f"{kind}_pace"] = pace
        results[f"{kind}_spread"] = spread(paces)
    return results


def show_pair(args, pair: dict) -> None:
    """The table of part 1."""
    rows = [
        [f"{side}, {n} cells", f"{pair[side]['read_tokens_per_s']:.1f}", f"{pair[side]['decode_tokens_per_s']:.1f}"]
        for side, n in (("stock", args.history), ("ours", args.cells))
    ]
    rows.append(["ratio", f"{pair['read_ratio']:.2f}x", f"{pair['decode_ratio']:.2f}x"])
    table([f"history {args.history}", "read tok/s", "decode tok/s"], rows)


def show_flatness(args, flat: dict) -> None:
    """The table of part 2."""

    def cells(of: dict, kind: str) -> list[str]:
        return [f"{of[f'{kind}_tokens_per_s']:.1f}", f"{of[f'{kind}_pace']:.3f}"]

    rows = [[n, *cells(flat[str(n)], "read"), *cells(flat[str(n)], "decode")] for n in args.histories]
    rows.append(["spread", "", f"{100 * flat['read_spread']:.1f} %", "", f"{100 * flat['decode_spread']:.1f} %"])
    table(["history of ours", "read tok/s", "pace", "decode tok/s", "pace"], rows)


def main() -> None:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--cells", type=int, default=1024)
    options.add_argument("--history", type=int, default=16384, help="part 1")
    options.add_argument("--histories", type=int, nargs="+", default=[4096, 8192, 16384, 32768, 65536], help="part 2")
    options.add_argument("--rounds", type=int, default=5, help="part 1")
    options.add_argument("--flat-rounds", type=int, default=FLAT_ROUNDS, help="part 2")
    options.add_argument("--part", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    args = options.parse_args()
    if args.quick:
        args.cells, args.history, args.histories, args.rounds, args.flat_rounds = 256, 1024, [512, 1024], 1, 2
    settings, results, checks = {"n_cells": args.cells}, {}, []
    if 1 in args.part:
        settings, pair = against_stock(args, args.history, args.cells, 8 if args.quick else STOCK_DECODE, args.rounds)
        show_pair(args, pair)
        checks += [
            check(f"decode at {args.history} tokens, ours / stock", pair["decode_ratio"], at_least=4.5),
            check(f"read {args.history} tokens, ours / stock", pair["read_ratio"], at_least=3.5),
        ]
        results["against_stock"] = pair
    if 2 in args.part:
        sizes = (256, 64) if args.quick else (ROUND_READ, ROUND_DECODE)
        flat = flatness(args, args.histories, args.cells, args.flat_rounds, *sizes)
        show_flatness(args, flat)
        checks += [
            check("decode, largest / smallest - 1 over the histories", flat["decode_spread"], at_most=0.05),
            check("read, largest / smallest - 1 over the histories", flat["read_spread"], at_most=0.05),
        ]
        results["flatness"] = flat
    report("speed", args, settings, results, checks)


if __name__ == "__main__":
    main()
