"""What does forgetting cost? Share of the wall time that compactions take, and their time against a plain memory copy.

Held constant per row: the ladder at 1,024 cells with the product's block size (an eighth of the budget freed at a
time, reading and decoding), the same text; what scores cost is policy_cost.py's question. 2,048 tokens fill the memory,
then 4,096 are read and 2,560 decoded greedily.
A compaction's time is all of it: the policy's plan in Python, checks, rows, cell table.
The copy is what numpy needs, on one thread, to copy as many bytes as the compactions moved: for every compaction and
layer, the K rows and the V rows whose cell changed, as one contiguous block from one buffer to another, a pair of
buffers for every layer and for K and V, together as large as the cache twice. It neither gathers nor rotates; a
compaction does both. With one thread (-t 1) all seconds are CPU seconds, else wall time on a quiet machine.
Wanted: at most 1 % of the time for f16, 2 % for quantized KV.

    python benchmarks/compaction.py --json-out benchmarks/results/2026-01-31-compaction.json
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from common import check, clock, generate, ladder, load_tokens, parser, progress, read, report, table

from lacache_gguf import Engine, Plan, Policy, View
from lacache_gguf.context import default_n_threads
from lacache_gguf.gguf_header import read_header
from lacache_gguf.kv_budget import KV_TYPES, KvGeometry

KV_PAIRS = (("f16", "f16"), ("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0"))
N_WARM, N_READ, N_DECODE = 2048, 4096, 2560


class Recorder:
    """A policy that remembers its plans, how long it took to make them, and how long the whole compactions took."""

    def __init__(self, policy: Policy, now: Callable[[], float]) -> None:
        self.name, self.check, self.n_free_max = policy.name, policy.check, policy.n_free_max
        self.policy, self.now = policy, now
        self.start()

    def start(self) -> None:
        """From now on."""
        self.keeps, self.seconds, self.seconds_compact = [], 0.0, 0.0

    def plan(self, view: View) -> Plan:
        start = self.now()
        plan = self.policy.plan(view)
        self.seconds += self.now() - start
        self.keeps.append(plan.keep)
        return plan

    def watch(self, engine: Engine) -> None:
        """Time everything that this engine does to make room."""
        make_room = engine._memory.make_room

        def timed(*args, **kwargs):
            start = self.now()
            compacted = make_room(*args, **kwargs)
            self.seconds_compact += (self.now() - start) * compacted
            return compacted

        engine._memory.make_room = timed


def n_moved(keep: np.ndarray) -> np.ndarray:
    """Rows per layer whose cell changes, int64 [n_layer]."""
    return np.count_nonzero(keep != np.arange(keep.shape[1]), axis=1)


def row_bytes(engine: Engine) -> np.ndarray:
    """Bytes of a K and of a V row, int64 [n_layer, 2]."""
    layers = KvGeometry.from_metadata(read_header(engine.model.path).metadata).layers
    (k_values, k_size), (v_values, v_size) = KV_TYPES[engine.type_k], KV_TYPES[engine.type_v]
    rows = [
        (x.n_head_kv * x.n_embd_head_k // k_values * k_size, x.n_head_kv * x.n_embd_head_v // v_values * v_size)
        for x in layers
        if not x.is_swa
    ]
    return np.array(rows, dtype=np.int64)


def copy_seconds(keeps: list[np.ndarray], rows: np.ndarray, n_cells: int) -> float:
    """Seconds to copy, plan by plan, as many bytes as the plans move."""
    source = [[np.ones((n_cells, size), np.uint8) for size in layer] for layer in rows]
    target = [[np.zeros((n_cells, size), np.uint8) for size in layer] for layer in rows]
    counts = [n_moved(keep) for keep in keeps]
    start = time.perf_counter()
    for count in counts:
        for n, (k_from, v_from), (k_to, v_to) in zip(count, source, target, strict=True):
            k_to[:n] = k_from[:n]
            v_to[:n] = v_from[:n]
    return time.perf_counter() - start


def measure(engine: Engine, recorder: Recorder, seconds_of_work, rows: np.ndarray) -> dict:
    """One phase: what the compactions of `seconds_of_work()` took, moved, and would have taken as copies."""
    recorder.start()
    seconds = seconds_of_work()
    n, compact = len(recorder.keeps), recorder.seconds_compact
    n_bytes = sum(int((n_moved(keep) * rows.sum(axis=1)).sum()) for keep in recorder.keeps)
    copy = min(copy_seconds(recorder.keeps, rows, engine.n_ctx) for _ in range(3))
    return {
        "seconds": seconds,
        "share": compact / seconds,
        "n_compactions": n,
        "ms_per_compaction": 1e3 * compact / n,
        "ms_of_it_planning": 1e3 * recorder.seconds / n,
        "mib_moved_per_compaction": n_bytes / n / 2**20,
        "ms_per_copy": 1e3 * copy / n,
        "times_copy": compact / copy,
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cells", type=int, default=1024)
    args = options.parse_args()
    now = clock(args.threads or default_n_threads())
    n_warm, n_read, n_decode = (512, 256, 128) if args.quick else (N_WARM, N_READ, N_DECODE)
    if args.quick:
        args.cells = 256
    policy = ladder(args.model, args.cells)
    with Engine(args.model, n_ctx=args.cells, policy=policy) as engine:
        tokens = load_tokens(engine, n_warm + n_read)
    rows, results = [], {}
    for type_k, type_v in KV_PAIRS:
        progress(f"K {type_k}, V {type_v}")
        recorder = Recorder(policy, now)
        settings = {"n_ctx": args.cells, "type_k": type_k, "type_v": type_v, "n_threads": args.threads}
        with Engine(args.model, policy=recorder, **settings) as engine:
            recorder.watch(engine)
            size = row_bytes(engine)
            read(engine, tokens[:n_warm])
            phases = {
                "read": measure(engine, recorder, lambda e=engine: read(e, tokens[n_warm:], now), size),
                "decode": measure(engine, recorder, lambda e=engine: generate(e, n_decode, now), size),
            }
        results[f"{type_k}/{type_v}"] = phases
        for name, phase in phases.items():
            rows.append(
                [f"{type_k}/{type_v} {name}", f"{100 * phase['share']:.2f} %", f"{phase['ms_per_compaction']:.2f}",
                 f"{phase['ms_of_it_planning']:.2f}", f"{phase['mib_moved_per_compaction']:.1f}",
                 f"{phase['ms_per_copy']:.2f}", f"{phase['times_copy']:.1f}x"]
            )  # fmt: skip
    table(["K/V, phase", "of wall time", "ms each", "planning", "MiB moved", "copy ms", "of a copy"], rows)
    checks = [
        check(f"{pair} {name}: share of the wall time", phase["share"], at_most=0.01 if pair == "f16/f16" else 0.02)
        for pair, phases in results.items()
        for name, phase in phases.items()
    ]
    report("compaction", args, {"policy": repr(policy), "n_read": n_read, "n_decode": n_decode}, results, checks)


if __name__ == "__main__":
    main()
