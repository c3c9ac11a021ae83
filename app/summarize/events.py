"""What `summarize` tells besides the engine's own Progress and Step: values, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """Work on one text begins: the document, a part of it, or summaries that become one.

    n_tokens   tokens of this text, without the instructions around it
    n_before   those of the stages before this one
    n_total    those of all stages; an estimate, since some texts are not written yet (all 0 where there is one stage)
    is_final   what is written now is the summary itself
    """

    index: int
    n_stages: int
    title: str
    n_tokens: int = 0
    n_before: int = 0
    n_total: int = 0
    is_final: bool = True


@dataclass(frozen=True)
class Place:
    """A statement and where it comes from: a label such as "pp. 1-12" and characters start .. end of the document."""

    label: str
    title: str
    text: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """Label and title as one line."""
        return ": ".join(word for word in (self.label, self.title) if word) or "beginning"


@dataclass(frozen=True)
class Note:
    """Something the user should know, in one sentence."""

    text: str


@dataclass(frozen=True)
class Result:
    """The end: everything that was made.

    text           Markdown: the summary with its places, in parts mode also the summaries of the parts
    places         in whole mode one for each sentence that could be placed; in parts mode one for each part listed
    summary        the summary alone, as shown
    finish_reason  "stop" or "length" (cut at the most tokens)
    prompt, answer the last question put to the model and its raw answer: what a chat goes on with
    """

    text: str
    places: tuple[Place, ...]
    summary: str = ""
    finish_reason: str = "stop"
    prompt: str = ""
    answer: str = ""
