"""What policies are called on pages and in tables, and what they do, in a few plain words.

What it is: `WORDS`, one row for each policy, and `words_of`, which has an answer for a policy that is not among them.
What it does not know: how a policy works, its settings.

    words_of("sink_window").title      # "Window"
    policy_choices()[0]                # ("Best choice: keeps what stands out", "default")
"""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT = "default"
"""The memory that the program uses when nobody chooses one."""


@dataclass(frozen=True)
class Words:
    """`title` is the name; `idea` what happens when the memory is full; `older` which words of older text are left, of
    policies whose choice depends on the text: "Of older text, ..." ."""

    title: str
    idea: str = ""
    older: str = ""


WORDS = {
    DEFAULT: Words("Best choice", "keeps what stands out"),
    "salience": Words("Salience", "keeps the rare, the surprising and what was used", "the words that stand out"),
    "ladder": Words("Ladder", "old text fades layer by layer"),
    "sink_window": Words("Window", "only the first and the newest text"),
    "full": Words("Full", "forgets nothing, stops when full"),
    "scored_ladder": Words("Scored ladder", "old text fades, telling words last", "the telling words of every passage"),
    "keydiff": Words("KeyDiff", "keeps what is unlike the rest", "the words that are unlike the rest"),
    "tova": Words("TOVA", "keeps what the newest word looks back at", "the words that the newest one looks back at"),
    "h2o": Words("H2O", "keeps what was looked back at most", "the words that were looked back at most"),
    "snapkv": Words("SnapKV", "keeps what the last lines look back at", "what the last lines look back at"),
    "cascade": Words("Cascade", "the older the text, the less of it", "fewer words the older it is"),
    "random": Words("By lot", "drops old words by lot, to compare with"),
}


def words_of(policy: str) -> Words:
    """The words for a policy; one without a row goes by its name."""
    return WORDS.get(policy) or Words(policy)


def policy_choices() -> list[tuple[str, str]]:
    """("Title: idea", name) of everything that can be chosen, the default first, the usual ones behind it."""
    from lacache_gguf.policies import POLICIES

    names = dict.fromkeys((*WORDS, *POLICIES))
    return [(": ".join(filter(None, (words_of(n).title, words_of(n).idea))), n) for n in names]
