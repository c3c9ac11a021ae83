"""Runs every benchmark, one after another, and stores what each reports under benchmarks/results/.

A summary of all checks is printed at the end and is the last thing on stdout but one JSON line; the exit status is 1
if a benchmark did not finish. Let the machine be idle otherwise: two threads on two cores notice a third.

    python benchmarks/all.py                           # about 50 minutes on 2 cores, plus 4 for the stock library
    python benchmarks/all.py --only parity speed
    python benchmarks/all.py --quick                   # does everything still run? stores nothing
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path

from common import parser, progress, table
from stock import add_option, find_or_build

HERE = Path(__file__).resolve().parent
NAMES = (
    *("parity", "speed", "compaction", "policy_cost", "context_shift", "drift", "endurance"),
    *("app_overhead", "gradio_floor"),
)
USES_STOCK = ("speed", "context_shift")


def run(name: str, args: argparse.Namespace, stock_lib: Path | None) -> dict | None:
    """The report of one benchmark, or None if it failed. Its tables and its progress go to stderr."""
    command = [sys.executable, str(HERE / f"{name}.py"), "--model", args.model]
    command += ["--threads", str(args.threads)] if args.threads else []
    command += ["--quick"] if args.quick else ["--json-out", str(HERE / "results" / f"{args.date}-{name}.json")]
    command += ["--stock-lib", str(stock_lib)] if name in USES_STOCK else []
    progress(" ".join(command[1:]))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def main() -> int:
    options = parser(__doc__)
    add_option(options)
    options.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME")
    options.add_argument("--date", default=datetime.date.today().isoformat(), help="in the names of the results")
    args = options.parse_args()
    stock_lib = find_or_build(args.stock_lib) if set(args.only) & set(USES_STOCK) else None
    summary, failed = [], []
    for name in args.only:
        start = time.time()
        result = run(name, args, stock_lib)
        if result is None:
            failed.append(name)
        checks = result["checks"] if result else []
        summary += [{"benchmark": name, **check} for check in checks]
        progress(f"{name}: {'failed' if result is None else 'done'} after {time.time() - start:.0f} s")
    rows = [[c["benchmark"], c["name"], f"{c['value']:.4g}", c["wanted"], "yes" if c["met"] else "NO"] for c in summary]
    table(["benchmark", "check", "value", "wanted", "met"], rows)
    print(json.dumps({"checks": summary, "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
