"""What does it cost to choose what to forget: scores, plans and compactions together, while reading and while writing?

Held constant: 1,024 cells, model file, threads, f16 KV, n_ubatch 512, flash attention as llama.cpp chooses it, the same
tokens for all. Three memories take turns in one process on one copy of the weights: sinks and a recent window, which
asks for no score; the default; and the default without surprise, which needs no logits while it reads. Every round
reads 256 tokens and writes 128 greedily, another memory first in each, so that the turns are short beside the moods of
a machine, which hit all alike; the first rounds fill the memories and are left out of the medians. The base is the
window's time without its own compactions; the share of a memory is what its time has more than the base, in the same
round.
With one thread (-t 1) seconds are CPU seconds, else wall time on a quiet machine.
Wanted of the default: at most 8 % of the reading and 3 % of the writing.

    python benchmarks/policy_cost.py --json-out benchmarks/results/2026-01-31-policy_cost.json
"""

from __future__ import annotations

import time
from collections.abc import Callable

from common import check, clock, generate, load_tokens, median, parser, progress, read, report, rotated, table

from lacache_gguf import Engine
from lacache_gguf.context import default_n_threads
from lacache_gguf.policies import Salience, SinkWindow

SIDES = {"window": SinkWindow(), "default": None, "no_surprise": Salience(surprise=0)}


def timed(engine: Engine, work: Callable[[], float]) -> tuple[float, float]:
    """(seconds by the benchmark's clock, seconds of wall time of the compactions among them as a share of the wall)."""
    before, start = engine.stats.seconds["compact"], time.perf_counter()
    seconds = work()
    return seconds, (engine.stats.seconds["compact"] - before) / (time.perf_counter() - start)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=33)
    args = options.parse_args()
    n_read, n_write = (256, 128) if not args.quick else (256, 16)
    n_fill = -(-args.cells // (n_read + n_write))  # rounds
    args.rounds = n_fill + 1 if args.quick else max(args.rounds, n_fill + 1)
    n_threads = args.threads or default_n_threads()
    now = clock(n_threads)
    seconds: dict[str, dict[str, list[float]]] = {name: {"read": [], "write": []} for name in SIDES}
    shares: dict[str, dict[str, list[float]]] = {name: {"read": [], "write": []} for name in SIDES}
    engines: dict[str, Engine] = {}
    try:
        for name, policy in SIDES.items():
            first = next(iter(engines.values()), None)
            settings = {"n_ctx": args.cells, "n_threads": n_threads, "beside": first}
            engines[name] = Engine(args.model, policy=policy, **settings)
        tokens = load_tokens(engines["window"], n_read * args.rounds).tolist()
        for i in range(args.rounds):
            part = tokens[i * n_read : (i + 1) * n_read]
            for name in rotated(SIDES, i):
                engine = engines[name]
                for kind, work in (
                    ("read", lambda engine=engine, part=part: read(engine, part, now)),
                    ("write", lambda engine=engine: generate(engine, n_write, now)),
                ):
                    spent, share = timed(engine, work)
                    seconds[name][kind].append(spent)
                    shares[name][kind].append(share)
            progress(f"round {i + 1} of {args.rounds}")
        policies = {name: repr(engine.policy) for name, engine in engines.items()}
        n_compactions = {name: engine.stats.n_compactions for name, engine in engines.items()}
    finally:
        for engine in reversed(engines.values()):
            engine.close()
    results: dict[str, object] = {"n_compactions": n_compactions, "rounds": seconds}
    rows, cost = [], {}
    for kind, n in (("read", n_read), ("write", n_write)):
        base = [s * (1 - share) for s, share in zip(seconds["window"][kind], shares["window"][kind], strict=True)]
        for name in SIDES:
            more = [1 - b / s for b, s in zip(base[n_fill:], seconds[name][kind][n_fill:], strict=True)]
            compact = median(shares[name][kind][n_fill:])
            cost[kind, name] = median(more)
            results |= {f"{kind}_{name}_share": median(more), f"{kind}_{name}_compact_share": compact}
            rate = n / median(seconds[name][kind][n_fill:])
            rows.append([kind, name, f"{rate:.1f}", f"{median(more):.1%}", f"{compact:.1%}"])
    table(["", "memory", "tokens/s", "share of the time", "of it in compactions"], rows)
    settings = {"cells": args.cells, "n_read": n_read, "n_write": n_write, "n_threads": n_threads, "policies": policies}
    checks = [
        check("reading, default", cost["read", "default"], at_most=0.08),
        check("writing, default", cost["write", "default"], at_most=0.03),
    ]
    report("policy_cost", args, settings, results, checks)


if __name__ == "__main__":
    main()
