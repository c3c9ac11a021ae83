"""The Compare tab: one question under two to four memories of equal MiB, answers side by side.

What it is: `build` and `wire`; the work itself is lacache_app.compare, run in the host's thread beside the loaded
engine, whose chat stays warm. Nothing is written to disk, so nothing is left behind however it ends.
What it does not know: how a memory works, what the fields say (compare_choice.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from lacache_app.compare import LINE_UP, Event, Outcome, Question, check_contenders, compare
from lacache_app.memory_spec import MemorySpec, parse_memory
from lacache_app.ui import compare_html
from lacache_app.ui.compare_choice import (
    DEFAULT_MIB,
    MIB,
    contenders_of,
    grouped,
    is_ladder,
    kinds,
    largest_mib,
    read_text,
    remark,
    sizes,
    whole,
)
from lacache_app.ui.compare_html import Slot
from lacache_app.ui.context import Context

from lacache_gguf.errors import LacacheError

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine

ID, TITLE = "compare", "Compare"
KV_TYPES = [
    ("16 bits", "f16/f16"),
    ("8 bits", "q8_0/q8_0"),
    ("K 8, V 4 bits", "q8_0/q4_0"),
    ("4 bits", "q4_0/q4_0"),
]
_TOKENS = (8, 1024)


@dataclass(frozen=True)
class Row:
    """What describes one contender."""

    kind: gr.Dropdown
    kv: gr.Dropdown
    span: gr.Number
    overlap: gr.Number
    ladder: gr.Accordion  # around those two

    def inputs(self) -> list[gr.components.Component]:
        """In the order of `contender_of`."""
        return [self.kind, self.kv, self.span, self.overlap]


@dataclass(frozen=True)
class CompareTab:
    """The tab's components."""

    prompt: gr.Textbox
    document: gr.Textbox
    file: gr.File
    mib: gr.Slider
    n_tokens: gr.Slider
    rows: tuple[Row, ...]
    cells: gr.HTML
    start: gr.Button
    stop: gr.Button
    result: gr.HTML
    results: gr.File
    pictures: gr.HTML

    def inputs(self) -> list[gr.components.Component]:
        """Everything `run` is called with."""
        row_inputs = [component for row in self.rows for component in row.inputs()]
        return [self.prompt, self.document, self.file, self.mib, self.n_tokens, *row_inputs]


def build(ctx: Context) -> CompareTab:
    """The components."""
    from lacache_app.documents import SUFFIXES

    prompt = gr.Textbox(
        label="Question", placeholder="Who is mentioned, and what do they want?", lines=2, elem_id="compare-prompt"
    )
    with gr.Accordion("A text to read first (optional)", open=True), gr.Row():
        document = gr.Textbox(
            label="Text", lines=4, max_lines=8, placeholder="Paste a text of any length ...", scale=3,
            elem_id="compare-document",
        )  # fmt: skip
        file = gr.File(label="... or a file", file_types=[*SUFFIXES], scale=1, height=140, elem_id="compare-file")
    rows = []
    with gr.Row(elem_id="compare-memories"):
        for number, kind in enumerate(LINE_UP, 1):
            with gr.Column(min_width=180):
                rows.append(_build_row(number, kind))
    with gr.Row():
        mib = gr.Slider(
            *MIB, value=DEFAULT_MIB, step=1, label="Memory of each, MiB", elem_id="compare-mib",
        )  # fmt: skip
        n_tokens = gr.Slider(*_TOKENS, value=128, step=8, label="Longest answer, tokens", elem_id="compare-tokens")
    bought = gr.HTML(
        sizes(ctx.host.settings.model, DEFAULT_MIB, [(kind, "f16/f16", None, None) for kind in LINE_UP]),
        elem_id="compare-cells",
    )
    with gr.Row():
        start = gr.Button("Compare", variant="primary", elem_id="compare-start")
        stop = gr.Button("Stop", variant="stop", elem_id="compare-stop", interactive=False)
    result = gr.HTML(
        compare_html.empty(), elem_id="compare-result", container=False, padding=False,
        head='<link rel="stylesheet" href="/lacache/assets/compare.css">',
    )  # fmt: skip
    with gr.Accordion("What was measured (lacache eval)", open=False, elem_id="compare-measured"):
        results = gr.File(
            label="What `lacache eval ... --json-out results.jsonl` wrote", file_types=[".jsonl"], height=140,
            elem_id="compare-results",
        )  # fmt: skip
        pictures = gr.HTML("", elem_id="compare-pictures", container=False, padding=False)
    return CompareTab(
        prompt, document, file, mib, n_tokens, tuple(rows), bought, start, stop, result, results, pictures
    )


def _build_row(number: int, kind: str) -> Row:
    choice = gr.Dropdown(kinds(), value=kind, label=f"Memory {number}", elem_id=f"compare-kind-{number}")
    kv = gr.Dropdown(KV_TYPES, value="f16/f16", label="Kept in", elem_id=f"compare-kv-{number}")
    with gr.Accordion("Ladder settings", open=False, visible=is_ladder(kind)) as ladder:
        span = gr.Number(None, label="Span, layers", precision=0, minimum=1, elem_id=f"compare-span-{number}")
        overlap = gr.Number(None, label="Overlap, layers", precision=0, minimum=0, elem_id=f"compare-overlap-{number}")
    return Row(choice, kv, span, overlap, ladder)


def wire(ctx: Context, own: CompareTab, shared: Any) -> None:
    """The events, and the endpoint /compare."""

    def run(
        request: gr.Request, prompt: str, document: str, file: str | None, mib: float, n_tokens: float, *values: Any
    ) -> Iterator[tuple[Any, ...]]:
        is_running = (gr.Button(interactive=False), gr.Button(interactive=True))
        is_over = (gr.Button(interactive=True), gr.Button(interactive=False))
        try:
            contenders = contenders_of(values)
            question = Question(prompt, read_text(document, file), whole(n_tokens, "the longest answer", *_TOKENS))
            budget = whole(mib, "the memory", *MIB) << 20
            check_contenders(contenders)
            slots = [Slot(contender) for contender in contenders]
            run = ctx.host.start(lambda engine: beside(ctx, engine, question, contenders, budget))
            ctx.runs.set(request.session_hash, run, ID)
        except LacacheError as error:
            yield (compare_html.cards([], str(error)), *is_over)
            return
        note, yielded = "", False
        try:
            for events in run.batches():
                slots = compare_html.fold(slots, events)
                note = _waiting(run)
                yield (compare_html.cards(slots, note), *is_running)
                yielded = True
        except LacacheError as error:
            note = str(error)
        slots = compare_html.stopped(slots)
        yield (
            compare_html.cards(slots, "Stopped." if run.state == "stopped" else "" if yielded and not note else note),
            *is_over,
        )

    own.start.click(
        run,
        own.inputs(),
        [own.result, own.start, own.stop],
        concurrency_limit=None,  # it paints at once that it waits; the engine's host lets one work at a time
        **shared.silent,
    )

    def stop(request: gr.Request) -> None:
        ctx.runs.stop(request.session_hash, ID)

    own.stop.click(stop, queue=False, api_visibility="private")

    def buy(mib: float, *values: Any) -> str:
        try:
            return sizes(ctx.host.settings.model, whole(mib, "the memory", *MIB), grouped(values))
        except LacacheError as error:
            return remark(str(error))

    row_inputs = [component for row in own.rows for component in row.inputs()]
    gr.on(
        [own.mib.change, *(component.change for component in row_inputs)],
        buy,
        [own.mib, *row_inputs],
        own.cells,
        queue=False,
        trigger_mode="always_last",
        **shared.silent,
    )

    for row in own.rows:
        row.kind.input(
            lambda kind: gr.Accordion(visible=is_ladder(kind)), row.kind, row.ladder, queue=False,
            **shared.silent,
        )  # fmt: skip

    shared.tabs.select(
        lambda: gr.Slider(maximum=largest_mib(ctx.host.settings.model)), None, own.mib, queue=False,
        **shared.silent,
    )  # fmt: skip

    def draw(file: str | None) -> str:
        from lacache_app.evaluate.pictures import pictures_of

        try:
            return compare_html.pictures(pictures_of(Path(file))) if file else ""
        except LacacheError as error:
            return remark(str(error))

    own.results.change(draw, own.results, own.pictures, **shared.silent)

    def compare_memories(
        prompt: str,
        document: str = "",
        memories: str = "; ".join(LINE_UP),
        mib: int = DEFAULT_MIB,
        max_tokens: int = 128,
    ) -> list[dict[str, Any]]:
        """One question under two to four memories of equal MiB. `memories` are separated by semicolons: a policy with
        settings, such as "default; sink_window; full; ladder:span=8,k=q8_0,v=q4_0". Returns one object per memory."""
        try:
            contenders = [parse_memory(text) for text in str(memories).split(";") if text.strip()]
            check_contenders(contenders)
            question = Question(prompt, document, whole(max_tokens, "max_tokens", *_TOKENS))
            budget = whole(mib, "mib", *MIB) << 20
            run = ctx.host.start(lambda engine: beside(ctx, engine, question, contenders, budget))
            events = [event for batch in run.batches() for event in batch]
        except LacacheError as error:
            raise gr.Error(str(error)) from None
        return [event.event.as_dict() for event in events if isinstance(event.event, Outcome)]

    gr.api(compare_memories, api_name="compare", concurrency_id="engine", concurrency_limit=1)


# ---- work ------------------------------------------------------------------------------------------------------------


def beside(
    ctx: Context, engine: Engine, question: Question, contenders: list[MemorySpec], budget: int
) -> Iterator[Event]:
    """The comparison as a work of the host: contenders use the weights of its `engine`, whose own memory is not
    touched, and the memory map shows each while it works."""
    return compare(
        question,
        contenders,
        budget,
        settings=_shared_settings(ctx),
        open_engine=_opener(ctx, engine),
        observe=ctx.memory_map.observe,
    )


def _shared_settings(ctx: Context) -> dict[str, Any]:
    settings = ctx.host.settings
    own = ("n_ctx", "kv_budget", "policy", "type_k", "type_v")
    return {field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in own}


def _opener(ctx: Context, host_engine: Engine) -> Callable[..., Any]:
    from lacache_app.options import engine_class

    @contextmanager
    def opened(**settings: Any) -> Iterator[Engine]:
        with engine_class()(**settings, beside=host_engine) as engine, ctx.memory_map.watching(engine):
            ctx.memory_map.observe(engine)
            yield engine

    return opened


def _waiting(run: Any) -> str:
    if run.state == "waiting" and run.place:
        return f"Waiting: {run.place} before you."
    return "Loading the model." if run.state == "loading" else ""
