"""The work itself: a document and a task -> a stream of progress, text and, last, a Result with its places.

What it is: `summarize` and `resume`. Whole mode asks once with the document in the message; parts mode writes a
summary for every node of the plan (tree.py), children first. With a Job a killed process can be gone on with.
What it does not know: how the memory is bounded; a document many times longer than the memory is the usual case.

    for event in summarize(engine, document, Task(mode="parts"), max_tokens=200, temperature=0):
        ...        # Stage, then Progress while it reads, Steps while it writes; Place when a part is done; last Result
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lacache_app.summarize.events import Note, Place, Result, Stage
from lacache_app.summarize.places import cite, marked, sentences, unwrapped
from lacache_app.summarize.task import N_PART, N_READ_MAX, Task, instruction, message
from lacache_app.summarize.tree import Node, listed, plan

if TYPE_CHECKING:
    from lacache_app.documents import Document
    from lacache_app.summarize.jobs import Job

    from lacache_gguf.engine import Engine
    from lacache_gguf.events import Progress

_N_TEMPLATE = 48  # tokens that a chat template puts around a message, its default system message included

Event = Any  # Stage | Progress | Step | Place | Note | Result


def summarize(
    engine: Engine, document: Document | str, task: Task | None = None, *, job: Job | None = None,
    max_tokens: int | None = None, **sampling: Any,
) -> Generator[Event, None, None]:  # fmt: skip
    """Summarize a document (or a plain text). Closing the generator stops it, also while it reads.

    max_tokens  of the final summary; None = as many as the task's length says
    sampling    goes to Engine.answer (temperature, top_k, seed, ...)
    job         where to keep what is needed to go on after a stop or a crash; see `resume`

    Raises what the engine raises (MemoryFull, UnsupportedModel, ...).
    """
    if isinstance(document, str):
        from lacache_app.documents import Document

        document = Document("text", document)
    task = task or Task()
    most = task.n_final if max_tokens is None else max_tokens
    if job is not None:
        job.sampling = {**sampling, "max_tokens": most}
        _take_over(job, engine)
    with job.working() if job else nullcontext():
        yield from _Work(engine, document, task, job, most, sampling).run()


def resume(engine: Engine, job: Job) -> Generator[Event, None, None]:
    """Go on with a job: the same events as `summarize`, from where it was. The text is the same as without a break.

    With another model or memory than before, what was being read is read again (a Note says so); summaries of parts
    that are finished stay. Raises UsageError if another process works on it or its document is gone.
    """
    return summarize(engine, job.document, job.task, job=job, **job.sampling)


class _Work:
    """One run; `n_before` is what the stages before the present one had to read."""

    def __init__(
        self, engine: Engine, document: Document, task: Task, job: Job | None, max_tokens: int, sampling: dict[str, Any]
    ) -> None:
        self.engine, self.document, self.task, self.job = engine, document, task, job
        self.max_tokens, self.sampling = max_tokens, sampling
        self.nodes: list[Node] = []
        self.n_before = self.n_stage = self.n_total = 0
        self.prompt = self.answer = self.finish_reason = ""

    def run(self) -> Iterator[Event]:
        if self.task.mode == "parts":
            self.nodes = self._plan()
        if len(self.nodes) < 2:
            yield from self._whole()
        else:
            yield from self._parts()

    def _plan(self) -> list[Node]:
        if self.job and self.job.nodes:
            return self.job.nodes
        n_read, n_fan = part_sizes(self.engine, self.task)
        nodes = plan(self.document, self.engine.tokenize, n_read, n_fan, N_PART[self.task.length])
        if self.job:
            self.job.nodes = nodes
        return nodes

    def _whole(self) -> Iterator[Event]:
        yield Stage(0, 1, self.document.name)
        text = yield from self._write(0, "whole", self.document.text, self.max_tokens)
        summary = tidy(text, self.finish_reason)
        placed = cite(summary, self.document.text, self.document.parts)
        places = tuple(place for _, place in placed if place)
        yield from self._finish(marked(summary, placed), summary, places)

    def _parts(self) -> Iterator[Event]:
        nodes, texts = self.nodes, list(self.job.texts) if self.job else []
        self.n_total = sum(node.n_tokens for node in nodes)
        shown = listed(nodes)
        yield from (self._place(i, texts[i]) for i in range(len(texts)) if i in shown)
        for index in range(len(texts), len(nodes)):
            node, is_final = nodes[index], index == len(nodes) - 1
            self.n_before = sum(node.n_tokens for node in nodes[:index])
            self.n_stage = node.n_tokens
            title = self._title(node, is_final)
            yield Stage(index, len(nodes), title, node.n_tokens, self.n_before, self.n_total, is_final)
            kind = "part" if not node.children else "notes" if is_final else "merge"
            most = self.max_tokens if is_final else self.task.n_part
            text = yield from self._write(index, kind, self._source(node, texts), most)
            if is_final:
                break
            texts.append(one_paragraph(tidy(text, self.finish_reason)))
            if index in shown:
                yield self._place(index, texts[index])
            if self.job:
                self.job.texts, self.job.n_done, self.job.n_total = texts, self.n_before + node.n_tokens, self.n_total
                self.job.checkpoint(None, index)
        summary = tidy(text, self.finish_reason)
        has_names = any(part.label or part.title for part in self.document.parts)
        placed = cite(summary, self.document.text, self.document.parts if has_names else [nodes[i] for i in shown])
        places = [self._place(i, texts[i]) for i in shown]
        rows = "\n".join(f"- **{place.name}:** {place.text}" for place in places)
        whole = f"{marked(summary, placed)}\n\n### Part by part\n\n{rows}" if rows else marked(summary, placed)
        yield from self._finish(whole, summary, tuple(places))

    def _source(self, node: Node, texts: list[str]) -> str:
        """What is read for a node: its stretch of the document, or its children's summaries under their names."""
        if not node.children:
            return self.document.text[node.start : node.end].strip()
        return "\n\n".join(texts[i] for i in node.children)

    def _title(self, node: Node, is_final: bool) -> str:
        return "the whole" if is_final else node.name or self.document.name

    def _place(self, index: int, text: str) -> Place:
        node = self.nodes[index]
        return Place(node.label, node.title, text, node.start, node.end)

    def _write(self, stage: int, kind: str, source: str, max_tokens: int) -> Generator[Event, None, str]:
        """Ask the model for one text; yields the engine's events, returns what it wrote."""
        content, pinned = message(self.task, kind, source)
        engine, job = self.engine, self.job
        if job and (problem := job.restore(engine, stage)):
            yield Note(problem)
        pieces: list[str] = []
        reading = True
        events = engine.answer(
            [{"role": "user", "content": content}], pinned=pinned, max_tokens=max_tokens, **self.sampling
        )
        try:
            for event in events:
                if hasattr(event, "token"):
                    pieces.append(event.text)
                    reading = False
                    self.finish_reason = event.finish_reason or self.finish_reason
                elif reading := event.n_done < event.n_total:
                    self._count(event)
                    if job:
                        job.checkpoint(engine, stage)
                yield event
        except GeneratorExit:
            events.close()
            if job:  # a stop by the user loses nothing: not even what was read since the last checkpoint
                job.checkpoint(engine if reading else None, stage, force=True)
            raise
        self.prompt, self.answer = content, "".join(pieces)
        return self.answer

    def _count(self, progress: Progress) -> None:
        if self.job and not self.n_total:
            self.job.n_done, self.job.n_total = progress.n_done, progress.n_total
        elif self.job:
            self.job.n_done = self.n_before + round(self.n_stage * progress.n_done / progress.n_total)
            self.job.n_total = self.n_total

    def _finish(self, text: str, summary: str, places: tuple[Place, ...]) -> Iterator[Event]:
        result = Result(text, places, summary, self.finish_reason or "stop", self.prompt, self.answer)
        if self.job:
            if self.job.problem:
                yield Note(self.job.problem)
            self.job.finish(self.engine, result)
        yield result


def part_sizes(engine: Engine, task: Task) -> tuple[int, int]:
    """(most tokens read for a part, most summaries that become one) for this engine's memory.

    A part, the instruction on both sides and the answer fill about half of the memory, so nothing of it is thinned.
    """
    n_told = 2 * len(engine.tokenize(instruction(task, "part"))) + _N_TEMPLATE
    n_read = max(64, min(N_READ_MAX, engine.n_ctx // 2, engine.n_ctx - n_told - task.n_part))
    n_told = 2 * len(engine.tokenize(instruction(task, "notes"))) + _N_TEMPLATE
    n_notes = max(64, min(N_READ_MAX, engine.n_ctx - n_told - task.n_final))
    return n_read, max(2, n_notes // (task.n_part + 2))


def _take_over(job: Job, engine: Engine) -> None:
    """The job is this engine's from now on. Its parts were cut for the memory of the one before: as long as nothing
    was written about them, they are cut anew."""
    identity = engine_identity(engine)
    if not job.texts and job.engine.get("n_ctx") != identity["n_ctx"]:
        job.nodes = []
    job.engine = identity


def engine_identity(engine: Engine) -> dict[str, Any]:
    """What a saved memory depends on, as plain values: to load the same engine again for a resume."""
    policy = {"name": engine.policy.name, **asdict(engine.policy)}
    return {
        "model": str(engine.model.path.absolute()) if engine.model.source == "path" else engine.model.name,
        "n_ctx": engine.n_ctx,
        "policy": policy,
        "type_k": engine.type_k,
        "type_v": engine.type_v,
    }


def tidy(text: str, finish_reason: str) -> str:
    """The model's text without spaces around it; one that was cut off ends with its last whole sentence, if any."""
    text = text.strip()
    if finish_reason != "length":
        return text
    text = unwrapped(text)
    rows = list(sentences(text))
    last = rows[-1].text if rows else ""
    if len(rows) < 2 or not text.endswith(last) or last.endswith((".", "!", "?", "…", "。", "！", "？")):
        return text
    return text.removesuffix(last).rstrip().removesuffix(rows[-1].lead.strip()).rstrip()


def one_paragraph(text: str) -> str:
    """A summary of a part on one line, so that lists of them stay lists."""
    return " ".join(text.split())
