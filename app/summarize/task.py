"""What is asked for: mode, style, length, language, and the words in which a model is told. Text only, no engine.

    Task(mode="parts", style="bullets", length="short", language="German")

`instruction(task, kind)` is the sentence before and after the text, for each kind of text: the "whole" document, a
"part" of it, or "notes": summaries of parts that become the final one ("merge": one that is itself a part).
"""

from __future__ import annotations

from dataclasses import dataclass

from lacache_gguf.errors import UsageError

MODES = ("whole", "parts")
STYLES = ("paragraph", "bullets", "outline", "simple")
LENGTHS = ("short", "medium", "long")
INSTRUCTION = "Summarize the following document: say what it is about and give its main points in a few sentences."

SAMPLING = {"temperature": 0.3, "repeat_penalty": 1.1, "seed": 0}
"""Defaults of summaries: nearly the likeliest words, but no loops, and the same summary each time."""

N_FINAL = {"short": 96, "medium": 256, "long": 640}
"""Most tokens of the final summary, for each length."""
N_PART = {"short": 64, "medium": 96, "long": 160}
"""Most tokens of the summary of a part."""
N_READ_MAX = 3072
"""Most tokens read for the summary of a part: more is summed up too coarsely, whatever fits into the memory."""

_SENTENCES = {"short": "two sentences", "medium": "a few sentences", "long": "several paragraphs"}
_POINTS = {"short": "three short points", "medium": "five to seven points", "long": "ten to fifteen points"}
_N_TEXT_MAX = 4000  # characters of an instruction: it is pinned, so it takes cells from the document


@dataclass(frozen=True)
class Task:
    """What to write. Raises UsageError for a word that is not known.

    mode         "whole": the document in one pass through the memory; "parts": part by part, then their summaries
    style        one of STYLES
    length       one of LENGTHS
    language     the summary's language by its name; "" = the document's
    instruction  what to do instead of summarizing; "" = summarize
    """

    mode: str = "whole"
    style: str = "paragraph"
    length: str = "medium"
    language: str = ""
    instruction: str = ""

    def __post_init__(self) -> None:
        for name, words in (("mode", MODES), ("style", STYLES), ("length", LENGTHS)):
            if getattr(self, name) not in words:
                raise UsageError(f"{name} {getattr(self, name)!r} is unknown; choose one of {', '.join(words)}")
        for name in ("language", "instruction"):
            if len(getattr(self, name)) > _N_TEXT_MAX:
                raise UsageError(
                    f"the {name} has {len(getattr(self, name)):,} characters; {_N_TEXT_MAX:,} are the most, "
                    "for it stays in the memory all the time"
                )

    @property
    def n_final(self) -> int:
        """Most tokens of the final summary."""
        return N_FINAL[self.length]

    @property
    def n_part(self) -> int:
        """Most tokens of the summary of one part."""
        return N_PART[self.length]


def instruction(task: Task, kind: str) -> str:
    """What the model is told, before the text and again behind it. `kind`: "whole", "part", "merge" or "notes"."""
    if kind == "whole":
        sentence = task.instruction.strip() or _whole(task)
    elif task.instruction.strip():
        sentence = _custom(task.instruction.strip(), kind)
    elif kind == "notes":  # plain words: told that these are notes, a small model writes about notes
        sentence = f"Summarize the following text {_form(task)}."
    else:
        sentence = f"Summarize the following text in {_part_length(task)}."
    return f"{sentence} {_language(task)}".strip()


def message(task: Task, kind: str, text: str) -> tuple[str, str]:
    """(content of the user message, its beginning that must stay in the memory): instruction, text, instruction."""
    told = instruction(task, kind)
    return f"{told}\n\n{text}\n\n{told}", f"{told}\n\n"


def _whole(task: Task) -> str:
    if (task.style, task.length) == ("paragraph", "medium"):
        return INSTRUCTION
    return f"Summarize the following document: say what it is about and give its main points {_form(task)}."


def _form(task: Task) -> str:
    if task.style == "bullets":
        return f"as a list of {_POINTS[task.length]}, each starting with a dash"
    if task.style == "outline":
        return f"as an outline with headings and {_POINTS[task.length]}"
    words = f"in {_SENTENCES[task.length]}"
    return f"{words}, in simple words that a child understands" if task.style == "simple" else words


def _part_length(task: Task) -> str:
    return {"short": "one sentence", "medium": "two sentences", "long": "three to five sentences"}[task.length]


def _custom(told: str, kind: str) -> str:
    if kind == "part":
        return f"{told} (This is one part of a longer document; answer for this part only, briefly.)"
    return f"{told} (The text below is a list of answers for the parts of one document; make one answer of them.)"


def _language(task: Task) -> str:
    language = " ".join(task.language.split())
    return f"Write in {language}." if language else ""
