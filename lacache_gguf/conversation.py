"""What of a chat the memory already holds, so that only new text is read. Text and tokens, no memory, no sampling."""

from __future__ import annotations

from collections.abc import Sequence

from lacache_gguf.model import Model


class Conversation:
    """The transcript as it was fed: rendered prompt and answer. None = unknown, everything must be read again."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.transcript: str | None = None

    def new_part(self, prompt: str, contents: Sequence[str]) -> list[int] | None:
        """Tokens that continue what was fed, or None if `prompt` does not: a message was edited, removed or cut short.

        `contents` are the messages' texts in order: control tokens typed inside them stay text.
        """
        if not self.transcript or not prompt.startswith(self.transcript) or len(prompt) == len(self.transcript):
            return None
        return self._model.tokenize_prompt(prompt[len(self.transcript) :], contents[-1:])

    def whole(self, prompt: str, contents: Sequence[str]) -> list[int]:
        """Tokens of the whole prompt, BOS in front if the model wants one and its template wrote none."""
        tokens, bos = self._model.tokenize_prompt(prompt, contents), self._model.bos_tokens
        return tokens if tokens[: len(bos)] == bos else [*bos, *tokens]

    def n_system(self, messages: Sequence[dict]) -> int:
        """Tokens of the leading system message (or of BOS alone): what prompts with different user texts share."""
        if not messages or messages[0]["role"] != "system":
            return len(self._model.bos_tokens)
        first, second = (
            self.whole(
                self._model.render([messages[0], {"role": "user", "content": text}]), [messages[0]["content"], text]
            )
            for text in ("0", "A")
        )
        pairs = zip(first, second, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
