"""`lacache eval KIND`: measure memories on texts of your own, with how sure the numbers are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lacache_app import options
from lacache_app.evaluate.flags import (
    add_common,
    add_texts,
    baseline_of,
    carry_out,
    draw,
    exit_code,
    note_refused,
    numbers,
    open_bench,
    open_log,
    prepare,
    sizes_of,
    specs_of,
)
from lacache_app.terminal import Terminal

HELP = "measure how well memories of equal size read and remember: perplexity, agreement, needles, summaries"
EXAMPLES = """\
examples:
  lacache eval compare
  lacache eval ppl
  lacache eval ppl --text book.txt --text pydoc --tokens 4096 -c 256,512 --json-out ppl.jsonl
  lacache eval agree --text book.txt --tokens 2048
  lacache eval passkey --length 1024,2048 --ratio 0.5,0.25
  lacache eval summary --text report.pdf --reference abstract.txt --show
  lacache eval ppl --memory ladder:recent=25% --memory sink_window --memory full --kv-budget 8MiB

a memory is a policy with settings: default, full, sink_window, ladder ..., then the policy's fields (sink= and recent=
for n_sink and n_recent), recent=25% of the cells, ctk= and ctv= (KV types), cells= or budget= (its own size)
docs/evaluation.md says what is held constant
"""
QUICK_CELLS = "256"
LENGTHS = "1024"
RATIOS = "0.5,0.25"
NEEDLES = ("multikey", "multivalue", "variables", "words")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's kinds and their arguments."""
    kinds = parser.add_subparsers(title="kinds", dest="kind", metavar="KIND", required=True)
    for name, (text, add, function) in KINDS.items():
        kind = kinds.add_parser(name, help=text, description=text, epilog=EXAMPLES)
        kind.add_argument("--verbose", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        add(kind)
        kind.set_defaults(measure=function)


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables."""
    return args.measure(args, Terminal())


# ---- ppl -------------------------------------------------------------------------------------------------------------


def _add_ppl(parser: argparse.ArgumentParser) -> None:
    add_texts(parser)
    parser.add_argument(
        "--baseline", default=None, metavar="KIND", help="memory to give differences to (default: sink_window if there)"
    )
    add_common(parser)


def _ppl(args: argparse.Namespace, terminal: Terminal) -> int:
    from lacache_app.evaluate.ppl import cases
    from lacache_app.evaluate.tables_of_texts import perplexity_tables
    from lacache_app.evaluate.texts import load_texts

    prepare(args)
    specs, sizes, texts, log = specs_of(args), sizes_of(args), load_texts(args.text), open_log(args)
    baseline = baseline_of(args, specs)
    with open_bench(args, terminal) as bench:
        found = cases(bench, texts, sizes, specs, args.tokens, args.ubatch_size, args.skip)
        note_refused(found, terminal)
        result = carry_out([case.item for case in found if case.item], log, terminal)
    terminal.write(perplexity_tables(found, result, baseline))
    draw(args, terminal, "perplexity", found, result)
    return exit_code(result)


# ---- agree -----------------------------------------------------------------------------------------------------------


def _add_agree(parser: argparse.ArgumentParser) -> None:
    add_texts(parser)
    add_common(parser)


def _agree(args: argparse.Namespace, terminal: Terminal) -> int:
    from lacache_app.evaluate.agree import cases
    from lacache_app.evaluate.tables_of_texts import agreement_tables
    from lacache_app.evaluate.texts import load_texts

    prepare(args)
    specs, sizes, texts, log = specs_of(args), sizes_of(args), load_texts(args.text), open_log(args)
    with open_bench(args, terminal) as bench:
        found = cases(bench, texts, sizes, specs, args.tokens, args.ubatch_size, args.skip)
        note_refused(found, terminal)
        result = carry_out([case.item for case in found if case.item], log, terminal)
    terminal.write(agreement_tables(found, result))
    draw(args, terminal, "agreement", found, result)
    return exit_code(result)


# ---- passkey, needles ------------------------------------------------------------------------------------------------


def _add_recall(parser: argparse.ArgumentParser, tasks: Sequence[str]) -> None:
    group = parser.add_argument_group("prompts")
    if len(tasks) > 1:
        group.add_argument(
            "--task", action="append", type=options.one_of(*tasks), default=[], metavar="NAME",
            help=f"{', '.join(tasks)} (default: all)",
        )  # fmt: skip
    group.add_argument("--length", default=LENGTHS, metavar="N[,N...]", help=f"tokens of a prompt (default: {LENGTHS})")
    group.add_argument(
        "--ratio", default=None, metavar="R[,R...]",
        help=f"cells as a share of the prompt's tokens (default, without -c and --kv-budget: {RATIOS})",
    )  # fmt: skip
    for name, default, text in (
        ("--depths", 10, "depths from the beginning to the end"),
        ("--trials", 2, "prompts for every depth"),
    ):
        group.add_argument(
            name, type=options.whole(1, "prompts"), default=default, metavar="N", help=f"{text} (default: {default})"
        )
    group.add_argument(
        "--seed",
        dest="first_seed",
        type=options.whole(0, "(a seed)"),
        default=0,
        metavar="N",
        help="of the first prompt",
    )
    group.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    group.add_argument("--no-pin", action="store_true", help="let the instruction be thinned, too")
    add_common(parser)


def _add_passkey(parser: argparse.ArgumentParser) -> None:
    _add_recall(parser, ("passkey",))


def _add_needles(parser: argparse.ArgumentParser) -> None:
    _add_recall(parser, NEEDLES)


def _recall(args: argparse.Namespace, terminal: Terminal) -> int:
    from lacache_app.evaluate.recall import Plan, Ratio, cases
    from lacache_app.evaluate.tables_of_answers import recall_tables

    from lacache_gguf.errors import UsageError

    prepare(args)
    tasks = ("passkey",) if args.kind == "passkey" else tuple(args.task) or NEEDLES
    lengths = tuple(int(x) for x in numbers(args.length, "--length", 64, 1 << 24, "tokens"))
    has_size = args.sizes or args.budgets
    if args.ratio and has_size:
        raise UsageError(f"--ratio {args.ratio} and {has_size} cells or bytes both set the KV memory; give one of them")
    ratios = [] if has_size else [Ratio(x) for x in numbers(args.ratio or RATIOS, "--ratio", 0.001, 1, "(a share)")]
    specs, log = specs_of(args), open_log(args)
    plan = Plan(tasks, lengths, args.depths, args.trials, args.first_seed, args.chat, not args.no_pin)
    with open_bench(args, terminal) as bench:
        found = cases(bench, plan, ratios or sizes_of(args), specs, args.ubatch_size)
        note_refused(found, terminal)
        result = carry_out([case.item for case in found if case.item], log, terminal)
    terminal.write(recall_tables(found, result))
    draw(args, terminal, "recall", found, result)
    return exit_code(result)


# ---- summary ---------------------------------------------------------------------------------------------------------


def _add_summary(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("documents")
    group.add_argument(
        "--text", action="append", default=[], metavar="FILE", help="a document; may be given many times"
    )
    group.add_argument(
        "--reference",
        action="append",
        default=[],
        metavar="FILE",
        help="its summary by somebody else, in the same order",
    )
    group.add_argument("--mode", type=options.one_of("whole", "parts"), default="whole", metavar="whole|parts",
                       help="as in lacache summarize (default: whole)")  # fmt: skip
    group.add_argument("--summary-length", type=options.one_of("short", "medium", "long"), default="medium",
                       metavar="LENGTH", help="short, medium, long (default: medium)")  # fmt: skip
    group.add_argument("--show", action="store_true", help="print the summaries, too")
    add_common(parser, has_plots=False)


def _summary(args: argparse.Namespace, terminal: Terminal) -> int:
    from lacache_app.evaluate.summary import cases
    from lacache_app.evaluate.tables_of_answers import summary_tables
    from lacache_app.evaluate.texts import load_text, load_texts

    from lacache_gguf.errors import UsageError

    prepare(args)
    if not args.text or len(args.text) != len(args.reference):
        raise UsageError(
            f"{len(args.text)} documents and {len(args.reference)} references; give --text and --reference in pairs"
        )
    pairs = list(zip(load_texts(args.text), map(load_text, args.reference), strict=True))
    specs, sizes, log = specs_of(args), sizes_of(args), open_log(args)
    with open_bench(args, terminal) as bench:
        found = cases(bench, pairs, sizes, specs, args.ubatch_size, args.mode, args.summary_length)
        note_refused(found, terminal)
        result = carry_out([case.item for case in found if case.item], log, terminal)
    terminal.write(summary_tables(found, result))
    for case in found if args.show else ():
        if case.item and case.item.id in result.rows:
            terminal.write(f"\n{case.spec.name}, {case.text.name}:\n{result.rows[case.item.id]['summary'].strip()}\n")
    return exit_code(result)


# ---- compare ---------------------------------------------------------------------------------------------------------


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", action="append", default=[], metavar="FILE", help="a text; may be given many times (default: pydoc)"
    )
    add_common(parser, QUICK_CELLS)


def _compare(args: argparse.Namespace, terminal: Terminal) -> int:
    from lacache_app.evaluate.quick import cases, quick_table
    from lacache_app.evaluate.texts import load_texts

    prepare(args)
    specs, sizes, texts, log = specs_of(args), sizes_of(args, QUICK_CELLS), load_texts(args.text), open_log(args)
    with open_bench(args, terminal) as bench:
        found = cases(bench, texts, sizes, specs, args.ubatch_size)
        note_refused([case for one in found for case in (*one.agree, *one.passkey)], terminal)
        result = carry_out([item for one in found for item in one.items], log, terminal)
    terminal.write(quick_table(found, result))
    draw(args, terminal, "agreement", [case for one in found for case in one.agree], result)
    draw(args, terminal, "recall", [case for one in found for case in one.passkey], result)
    return exit_code(result)


KINDS = {
    "ppl": ("perplexity of texts by length, with paired differences", _add_ppl, _ppl),
    "agree": (
        "how far guesses are from those with the full cache: KL divergence and same top token",
        _add_agree,
        _agree,
    ),
    "passkey": ("the paper's test: a number in a long filler text, asked for behind it", _add_passkey, _recall),
    "needles": ("harder ones: several keys, several values, variables, common words", _add_needles, _recall),
    "summary": ("summaries against references, by ROUGE", _add_summary, _summary),
    "compare": ("a first look at all of it in a few minutes, one table", _add_compare, _compare),
}
