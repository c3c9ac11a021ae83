"""What does it cost to choose what to forget: scores, plans and compactions together, while reading and while writing?

Held constant: 1,024 cells, model file, threads, f16 KV, n_ubatch 512, flash attention as llama.cpp chooses it, the same
tokens for all. Three memories on one copy of the weights: sinks and a recent window, which asks for no score; the
default; and the default without surprise. Two parts add up. Compactions, with the scores and the plan behind them, are
timed while the memories take turns at reading 256 tokens and writing 128 greedily; the first rounds fill the memories
and are left out of the medians. What is noted while tokens are decoded (queries, losses) is too little to show between
engines, whose speeds differ by a few percent by where their memory lies: one engine decodes the same tokens into the
same cells with and without it, in turn.
With one thread (-t 1) seconds are CPU seconds, else wall time on a quiet machine.
Wanted of the default: at most 8 % of the reading and 3 % of the writing.

    python benchmarks/policy_cost.py --json-out benchmarks/results/2026-01-31-policy_cost.json
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from common import check, clock, generate, load_tokens, median, parser, progress, read, report, rotated, table

from lacache_gguf import Engine
from lacache_gguf.context import default_n_threads
from lacache_gguf.policies import Salience, SinkWindow, needs_of

SIDES = {"window": SinkWindow(), "default": None, "no_surprise": Salience(surprise=0)}
N_WRITE = 16  # tokens at a time, with and without notes


def timed(engine: Engine, work: Callable[[], float]) -> tuple[float, float]:
    """(seconds by the benchmark's clock, seconds of wall time of the compactions among them as a share of the wall)."""
    before, start = engine.stats.seconds["compact"], time.perf_counter()
    seconds = work()
    return seconds, (engine.stats.seconds["compact"] - before) / (time.perf_counter() - start)


def noted(engine: Engine, tokens: Sequence[int], rounds: int, now: Callable[[], float]) -> dict[str, list[float]]:
    """Shares of decoding that notes for the policy take, while reading and while writing; `rounds` of each, or none."""
    context = engine._context
    attention = next((need for need in needs_of(engine.policy) if need.kind == "attention"), None)
    if attention is None:
        return {"read": [0.0], "write": [0.0]}
    n = len(tokens) // 8  # as many as the engine reads at a time
    engine.reset()
    read(engine, tokens[:-n])
    n_vocab, chunk = context.n_vocab, context.check(tokens[-n:])

    def seconds(kind: str, is_on: bool) -> float:
        context.set_n_query(attention.n_query if is_on else 0, attention.spread)
        context.set_n_vocab(n_vocab if is_on else 0)
        start, first = now(), len(tokens) - n
        if kind == "read":
            context.decode(chunk, first, all_logits=is_on and n_vocab > 0)
        else:
            for i in range(N_WRITE):
                context.decode(chunk[i : i + 1], first + i)
        context.synchronize()
        spent = now() - start
        context.retract(first)
        return spent

    shares: dict[str, list[float]] = {"read": [], "write": []}
    for i in range(rounds):
        for kind in shares:
            spent = {is_on: seconds(kind, is_on) for is_on in rotated((False, True), i)}
            shares[kind].append(1 - spent[False] / spent[True])
    return shares


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", type=int, default=1024)
    options.add_argument("--rounds", type=int, default=23)
    args = options.parse_args()
    n_read, n_write = (256, 128) if not args.quick else (256, 16)
    n_fill = -(-args.cells // (n_read + n_write))  # rounds
    args.rounds = n_fill + 1 if args.quick else max(args.rounds, n_fill + 1)
    n_threads = args.threads or default_n_threads()
    now = clock(n_threads)
    seconds: dict[str, dict[str, list[float]]] = {name: {"read": [], "write": []} for name in SIDES}
    shares: dict[str, dict[str, list[float]]] = {name: {"read": [], "write": []} for name in SIDES}
    notes: dict[str, dict[str, list[float]]] = {}
    engines: dict[str, Engine] = {}
    try:
        for name, policy in SIDES.items():
            first = next(iter(engines.values()), None)
            settings = {"n_ctx": args.cells, "n_threads": n_threads, "beside": first}
            engines[name] = Engine(args.model, policy=policy, **settings)
        tokens = load_tokens(engines["window"], max(n_read * args.rounds, args.cells)).tolist()
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
        for name, engine in engines.items():
            notes[name] = noted(engine, tokens[: args.cells], 2 if args.quick else 2 * args.rounds, now)
            progress(f"notes of {name}")
    finally:
        for engine in reversed(engines.values()):
            engine.close()
    results: dict[str, object] = {"n_compactions": n_compactions, "rounds": seconds, "notes": notes}
    rows, cost = [], {}
    for kind, n in (("read", n_read), ("write", n_write)):
        for name in SIDES:
            compact, note = median(shares[name][kind][n_fill:]), median(notes[name][kind])
            cost[kind, name] = compact + (1 - compact) * note
            results |= {
                f"{kind}_{name}_share": cost[kind, name],
                f"{kind}_{name}_compact_share": compact,
                f"{kind}_{name}_note_share": note,
            }
            rate = n / median(seconds[name][kind][n_fill:])
            rows.append([kind, name, f"{rate:.1f}", f"{compact:.1%}", f"{note:.1%}", f"{cost[kind, name]:.1%}"])
    table(["", "memory", "tokens/s", "compactions", "notes while decoding", "together"], rows)
    settings = {"cells": args.cells, "n_read": n_read, "n_write": n_write, "n_threads": n_threads, "policies": policies}
    checks = [
        check("reading, default", cost["read", "default"], at_most=0.08),
        check("writing, default", cost["write", "default"], at_most=0.03),
    ]
    report("policy_cost", args, settings, results, checks)


if __name__ == "__main__":
    main()
