"""A conversation in the memory: messages in, the events of the answer out, and nothing read twice that is still there.

Knows the model's template and the session that reads and writes; no files, no sampler settings.

    conversation = Conversation(model, session, memory)
    for event in conversation.answer([{"role": "user", "content": "Hello"}], Sampling()): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lacache_gguf.errors import UsageError
from lacache_gguf.events import Progress, Step
from lacache_gguf.memory import Memory
from lacache_gguf.model import Model
from lacache_gguf.sampling import Sampling
from lacache_gguf.session import Session
from lacache_gguf.template import Span
from lacache_gguf.transcript import Transcript, n_common


class Conversation:
    """Ties the transcript to the tokens of a session."""

    def __init__(self, model: Model, session: Session, memory: Memory) -> None:
        self._model, self._session, self._memory = model, session, memory
        self.transcript = Transcript(model)

    def reset(self) -> None:
        """Forget everything, the session's tokens included."""
        self._session.reset()
        self.transcript = Transcript(self._model)

    def answer(
        self,
        messages: Sequence[dict],
        sampling: Sampling,
        *,
        pinned: str = "",
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
    ) -> Iterator[Progress | Step]:
        """Read what is new of `messages`, then write; see Engine.answer."""
        prompt = self._model.render(messages)
        spans = self._model.spans(messages, prompt)
        tokens = self._go_on(prompt, spans)
        session, transcript, n_pinned = self._session, self.transcript, None
        if not self._memory.n_evicted:
            n_pinned = self._n_pinned(messages, pinned, [*session.fed, *tokens])
        yield from session.read(tokens, n_pinned, n_before=len(session.seen))
        transcript.turn(prompt, len(session.fed))
        run = None
        try:
            for step in session.write(sampling, max_tokens, stop):
                run = session.current
                piece = self._model.piece(step.token) if session.pending else b""  # nothing is pending behind an end
                transcript.wrote(piece, step.text, len(session.fed))
                yield step
        finally:
            if run is session.current:  # take back what was written but not shown
                session.keep(transcript.end_answer())

    def _go_on(self, prompt: str, spans: Sequence[Span] | None) -> list[int]:
        """Bring the memory to a beginning of `prompt`, the longest that it can; the tokens that are left to read."""
        session, fed = self._session, self._session.fed
        for way in self.transcript.continuations(prompt, spans, fed):
            n_keep, tokens = way.n_keep, way.tokens
            if n_keep == 0 or not session.keep(n_keep):
                continue
            if not tokens and not session.can_write:  # all is there but what the next token may be: feed the last again
                n_keep, tokens = n_keep - 1, [int(fed[n_keep - 1])]
                if not session.keep(n_keep):
                    continue
            self.transcript.cut(way.mark)
            return tokens
        self.reset()
        return self.transcript.whole(prompt, spans)

    def _n_pinned(self, messages: Sequence[dict], pinned: str, tokens: Sequence[int]) -> int:
        """Tokens of the system message and of `pinned`, with which the first other message begins (neither: of BOS
        alone): what prompts share that go on differently. `tokens` are those of the prompt for `messages`.

        Raises UsageError if the message does not begin with `pinned`.
        """
        n_system = int(bool(messages) and messages[0]["role"] == "system")
        if not n_system and not pinned:
            return len(self._model.bos_tokens)
        if pinned and not (len(messages) > n_system and messages[n_system]["content"].startswith(pinned)):
            raise UsageError(f"the first user message does not begin with the text to pin, {pinned!r:.60}")
        one, other = (self._probe([*messages[:n_system], {"role": "user", "content": pinned + text}]) for text in "0A")
        return min(n_common(one, other), n_common(one, tokens))

    def _probe(self, messages: Sequence[dict]) -> list[int]:
        prompt = self._model.render(messages)
        return self.transcript.whole(prompt, self._model.spans(messages, prompt))
