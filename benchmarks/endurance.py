"""Does it last? 300,000 tokens through 512 cells: resident memory, perplexity and speed over the whole way.

Held constant: the product's default policy at 512 cells, f16 KV, read steps of 64 tokens (an eighth of the budget, as
the engine reads), logits of every token taken for the perplexity. The text, equal parts of all texts at hand, is read
three times in a row without a reset: other texts have other perplexities, so only the same 10,000 tokens in a later
pass tell whether quality has changed. 512 cells cannot hold anything of a text that lies 100,000 tokens back.
Wanted: resident memory within 1 % of its value after the first 10,000 tokens; perplexity of the last pass equal to
that of the first; no slowdown. Speed is judged by medians of the first and the last third, and by a straight line
through all. With one thread (-t 1) tokens per second of CPU time are judged: nothing spins then, so other programs on
the machine, which an hour cannot keep away, hardly count. With more threads it is wall time, and the machine must be
quiet.

    python benchmarks/endurance.py -t 1 --json-out benchmarks/results/2026-01-31-endurance.json
"""

from __future__ import annotations

import time

import numpy as np
from common import check, load_tokens, median, nll_chunks, parser, progress, report, resident_bytes, table

from lacache_gguf import Engine
from lacache_gguf.context import default_n_threads


def walk(engine: Engine, tokens: np.ndarray, n_ubatch: int, n_window: int) -> list[dict]:
    """Feed all tokens; one entry per window of `n_window`."""
    windows: list[dict] = []
    total, n_done, n_next = 0.0, 0, n_window
    start, start_cpu = time.perf_counter(), time.process_time()
    for nll in nll_chunks(engine, tokens, n_ubatch):
        total += float(nll.sum(dtype=np.float64))
        n_done += len(nll)
        if n_done < n_next:
            continue
        n_in_window = n_done - (windows[-1]["n_seen"] if windows else 0)
        seconds, seconds_cpu = time.perf_counter() - start, time.process_time() - start_cpu
        windows.append(
            {
                "n_seen": n_done,
                "perplexity": float(np.exp(total / n_in_window)),
                "tokens_per_s": n_in_window / seconds,
                "cpu_seconds": seconds_cpu,
                "tokens_per_cpu_s": n_in_window / seconds_cpu,
                "resident_mib": (resident_bytes() or 0) / 2**20,
                "resident_anonymous_mib": (resident_bytes("RssAnon") or 0) / 2**20,
            }
        )
        last = windows[-1]
        progress(
            f"{n_done} tokens: perplexity {last['perplexity']:.2f}, {last['tokens_per_s']:.0f} tokens/s, "
            f"{last['tokens_per_cpu_s']:.1f} tokens/CPU s, {last['resident_mib']:.1f} MiB resident"
        )
        total, n_next = 0.0, n_next + n_window
        start, start_cpu = time.perf_counter(), time.process_time()
    return windows


def judge(windows: list[dict], n_passes: int) -> dict:
    """How flat the curves are; speed by wall time and by CPU time."""
    n = len(windows) // n_passes
    resident = [window["resident_mib"] for window in windows]
    seen = np.array([window["n_seen"] for window in windows], dtype=np.float64)
    log_ppl = np.log([window["perplexity"] for window in windows])
    third = max(1, len(windows) // 3)
    results = {
        "resident_growth_max": max(resident) / resident[0] - 1,
        "resident_growth_end": resident[-1] / resident[0] - 1,
        "perplexity_by_pass": [float(np.exp(log_ppl[i * n : (i + 1) * n].mean())) for i in range(n_passes)],
        "perplexity_last_pass_to_first": float(np.exp((log_ppl[-n:] - log_ppl[:n]).mean())),
        "perplexity_same_window_largest_change": float(np.expm1(np.abs(log_ppl[-n:] - log_ppl[:n]).max())),
    }
    for key in ("tokens_per_s", "tokens_per_cpu_s"):
        speed = np.array([window[key] for window in windows])
        slope, _ = np.polyfit(seen, speed / median(speed), 1)
        first, last = median(speed[:third]), median(speed[-third:])
        results[f"{key}_first_third"], results[f"{key}_last_third"] = first, last
        results[f"{key}_last_to_first"] = last / first
        results[f"{key}_line_change_over_run"] = float(slope * (seen[-1] - seen[0]))
    return results


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--tokens", type=int, default=300_000)
    options.add_argument("--passes", type=int, default=3)
    options.add_argument("--window", type=int, default=10_000)
    options.add_argument("--cells", type=int, default=512)
    args = options.parse_args()
    if args.quick:
        args.tokens, args.window, args.cells = 2400, 400, 256
    with Engine(args.model, n_ctx=args.cells, n_threads=args.threads) as engine:
        text = load_tokens(engine, args.tokens // args.passes)
        tokens = np.append(np.tile(text, args.passes), text[:1])  # one more, so that the last token is predicted, too
        n_ubatch = args.cells // 8
        windows = walk(engine, tokens, n_ubatch, args.window)
        policy, stats = engine.policy, engine.stats
    results = judge(windows, args.passes)
    shown = windows[:: max(1, len(windows) // 10)]
    table(
        ["tokens seen", "perplexity", "tokens/s", "tokens/CPU s", "resident MiB", "of it anonymous"],
        [[w["n_seen"], f"{w['perplexity']:.2f}", f"{w['tokens_per_s']:.1f}", f"{w['tokens_per_cpu_s']:.1f}",
          f"{w['resident_mib']:.1f}", f"{w['resident_anonymous_mib']:.1f}"] for w in shown],
    )  # fmt: skip
    passes = " / ".join(f"{ppl:.3f}" for ppl in results["perplexity_by_pass"])
    n_threads = args.threads or default_n_threads()
    key, unit = ("tokens_per_cpu_s", "tokens/CPU s") if n_threads == 1 else ("tokens_per_s", "tokens/s")
    change = 100 * results[f"{key}_line_change_over_run"]
    print(f"perplexity by pass over the same text: {passes}")
    print(f"{unit}, change over the whole run by a straight line: {change:+.1f} %\n")
    settings = {
        "policy": repr(policy),
        "n_ubatch": n_ubatch,
        "n_compactions": stats.n_compactions,
        "n_seen": stats.n_seen,
    }
    checks = [
        check("resident memory, largest growth after the first window", results["resident_growth_max"], at_most=0.01),
        check("perplexity, last pass / first", results["perplexity_last_pass_to_first"], at_most=1.01),
        check(f"{unit}, last third / first", results[f"{key}_last_to_first"], at_least=0.95),
    ]
    report("endurance", args, settings, {**results, "windows": windows}, checks)


if __name__ == "__main__":
    main()
