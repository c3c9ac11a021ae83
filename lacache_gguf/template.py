"""A model's own chat template: messages -> prompt text, rendered in a sandbox, and where in it every message stands.

Knows no tokens, no engine. A template is a stranger's program: whatever it raises becomes an error for the user.

    template = ChatTemplate(None, bos_text="", eos_text="", origin="model.gguf")    # None: a plain transcript
    prompt = template.render([{"role": "user", "content": "Hello"}])
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from lacache_gguf.errors import UnsupportedModel, UsageError

Span = tuple[int, int]  # first and end offset of a message's text in a prompt

# used where a model brings no template of its own: a plain transcript, nothing a vocabulary must know
_PLAIN = (
    "{% for m in messages %}{{ m.role | capitalize }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_PLAIN_STOPS = ("\nUser:", "\nSystem:")
_MARK = "LACACHE{}MESSAGE5STANDS7HERE"  # letters and digits only: no template changes or escapes it
_MARKS = re.compile(_MARK.format("([0-9]+)"))


class ChatTemplate:
    """Jinja2 template `source` (None: a plain transcript); `origin` names the model's file in errors."""

    def __init__(self, source: str | None, *, bos_text: str, eos_text: str, origin: str) -> None:
        self._source, self._bos, self._eos, self._origin = source, bos_text, eos_text, origin
        self.stops = () if source else _PLAIN_STOPS  # texts that end an answer beyond the end-of-generation tokens
        self._formatter = lru_cache(maxsize=2)(self._make_formatter)

    def _make_formatter(self, add_generation_prompt: bool):
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter  # renders in jinja2's ImmutableSandboxedEnvironment

        try:
            return Jinja2ChatFormatter(
                template=self._source or _PLAIN,
                eos_token=self._eos,
                bos_token=self._bos,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # jinja2.TemplateSyntaxError and whatever else a hostile template provokes
            raise UnsupportedModel(f"the chat template in {self._origin} cannot be used: {error}") from error

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """The prompt for `messages` ({"role", "content"}). Raises UsageError for malformed or refused messages."""
        for message in messages:
            if not (isinstance(message, dict) and isinstance(message.get("content"), str) and message.get("role")):
                raise UsageError(f'a message is {{"role": ..., "content": text}}, not {message!r:.80}')
        formatter = self._formatter(add_generation_prompt)
        try:
            return formatter(messages=list(messages)).prompt
        except Exception as error:  # the template is the model author's program: any error is its answer
            raise UsageError(f"the model's chat template refuses these messages: {error}") from error

    def spans(self, messages: Sequence[dict], prompt: str, is_plain: Callable[[str], bool]) -> list[Span] | None:
        """Where the messages' texts stand in their `prompt`, in its order; None if the template hides that.

        A text that the template shortened (a thought cut out) is found by what follows it, if `is_plain(text)` says
        that it cannot hold anything that looks like the template.
        """
        marked = [
            {**message, "content": _MARK.format(i) if message["content"] else ""} for i, message in enumerate(messages)
        ]
        try:
            head, *rest = _MARKS.split(self.render(marked))
        except UsageError:  # it looks into the texts
            return None
        if not prompt.startswith(head):
            return None
        spans, at = [], len(head)
        for index, behind in zip(rest[::2], rest[1::2], strict=True):
            text = messages[int(index)]["content"]
            end = _end(prompt, at, text, behind)
            if end is None and behind and is_plain(text):
                found = prompt.find(behind, at)
                end = found if found >= 0 else None
            if end is None:
                return None
            spans.append((at, end))
            at = end + len(behind)
        return spans if at == len(prompt) else None


def _end(prompt: str, at: int, text: str, behind: str) -> int | None:
    """Offset where `text`, perhaps stripped, ends in the prompt if it begins at `at` and `behind` follows."""
    for form in (text, text.strip(), text.lstrip(), text.rstrip()):
        end = at + len(form)
        if prompt.startswith(form, at) and prompt.startswith(behind, end):
            return end
    return None
