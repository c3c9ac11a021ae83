"""A loaded GGUF model: weights, vocabulary, chat template. Knows nothing of contexts, memory or sampling.

with Model(path, n_gpu_layers=0) as model:
    model.detokenize(model.tokenize("Hello"))
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from lacache_gguf import native
from lacache_gguf.errors import DamagedModel, OutOfMemory, UnsupportedModel, UsageError
from lacache_gguf.gguf_header import read_header
from lacache_gguf.template import ChatTemplate, Span


class Model:
    """Owns a `llama_model *`. Raises DamagedModel, UnsupportedModel or OutOfMemory, each with llama.cpp's reason."""

    def __init__(self, path: Path, n_gpu_layers: int = -1) -> None:
        self._lib = lib = native.load()
        self.path = path
        self.metadata = read_header(path).metadata
        params = lib.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers  # negative: all
        native.clear_errors()
        self._ptr = lib.llama_model_load_from_file(str(path).encode(), params)
        if not self._ptr:
            raise _load_error(path, native.recent_errors())
        self.vocab = lib.llama_model_get_vocab(self._ptr)
        self.n_vocab = lib.llama_vocab_n_tokens(self.vocab)
        self.n_ctx_train = lib.llama_model_n_ctx_train(self._ptr)
        if lib.llama_model_has_encoder(self._ptr) or not lib.llama_model_has_decoder(self._ptr):
            self.close()
            raise UnsupportedModel(f"{path.name} is an encoder model; lacache needs a decoder-only language model")

    @property
    def ptr(self):
        """The `llama_model *`. Raises UsageError after close()."""
        if self._ptr is None:
            raise UsageError("the model was closed")
        return self._ptr

    def close(self) -> None:
        """Free the weights; safe to call twice."""
        if getattr(self, "_ptr", None) is not None:
            self._lib.llama_model_free(self._ptr)
            self._ptr = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    # ---- tokens ----------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Tokens of `text`, no BOS added; with `special`, control tokens written in the text become themselves."""
        data = text.encode("utf-8")
        size = len(data) + 8
        while True:
            buffer = (self._lib.llama_token * size)()
            n = self._lib.llama_tokenize(self.vocab, data, len(data), buffer, size, False, special)
            if n >= 0:
                return list(buffer[:n])
            size = -n

    def piece(self, token: int, special: bool = False) -> bytes:
        """Bytes of one token; a piece may end inside a character. Raises UsageError outside the vocabulary."""
        if not 0 <= token < self.n_vocab:
            raise UsageError(f"token {token} is not in this model's vocabulary of {self.n_vocab}")
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = self._lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def detokenize(self, tokens: Sequence[int], special: bool = False) -> str:
        """Text of `tokens`; incomplete UTF-8 shows as U+FFFD."""
        return b"".join(self.piece(token, special) for token in tokens).decode("utf-8", "replace")

    def is_eog(self, token: int) -> bool:
        """True if the token ends a generation (EOS, EOT, ...)."""
        return self._lib.llama_vocab_is_eog(self.vocab, token)

    @cached_property
    def bos_tokens(self) -> list[int]:
        """What must precede a text: [BOS], or [] if the model wants none."""
        bos = self._lib.llama_vocab_bos(self.vocab)
        return [bos] if bos >= 0 and self._lib.llama_vocab_get_add_bos(self.vocab) else []

    def tokenize_prompt(self, prompt: str, spans: Sequence[Span] | None, start: int = 0) -> list[int]:
        """Tokens of `prompt` from offset `start` on: control tokens count only outside `spans`, the messages' texts.

        No BOS added. None for spans: no message holds a control token's text.
        """
        tokens: list[int] = []
        at = start
        for first, end in spans or ():
            text = prompt[max(first, at) : end]
            if text and not self.is_plain(text):
                tokens += self.tokenize(prompt[at : max(first, at)], special=True) + self.tokenize(text)
                at = end
        return tokens + self.tokenize(prompt[at:], special=True)

    def is_plain(self, text: str) -> bool:
        """True if no control token is written in `text`."""
        return self.tokenize(text) == self.tokenize(text, special=True)

    # ---- chat template ---------------------------------------------------------------------------------------------

    @cached_property
    def _template(self) -> ChatTemplate:
        source = self._lib.llama_model_chat_template(self.ptr, None)
        return ChatTemplate(
            source.decode("utf-8", "replace") if source else None,
            bos_text=self._control_text(self._lib.llama_vocab_bos(self.vocab)),
            eos_text=self._control_text(self._lib.llama_vocab_eos(self.vocab)),
            origin=self.path.name,
        )

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end an answer beyond the end-of-generation tokens (only for models without a chat template)."""
        return self._template.stops

    def render(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """The prompt for `messages` ({"role", "content"}) by the model's own template, in a sandbox.

        Raises UsageError for malformed messages or ones the template refuses.
        """
        return self._template.render(messages, add_generation_prompt)

    def spans(self, messages: Sequence[dict], prompt: str) -> list[Span] | None:
        """Where the texts of `messages` stand in their rendered `prompt`, None if that cannot be told.

        Raises UsageError if it matters: a text contains control tokens and the template rewrites texts.
        """
        spans = self._template.spans(messages, prompt, self.is_plain)
        if spans is None and not all(self.is_plain(message["content"]) for message in messages):
            raise UsageError("the chat template rewrites a message that contains control tokens; remove them")
        return spans

    def _control_text(self, token: int) -> str:
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


def _load_error(path: Path, log: str) -> Exception:
    text = log or "llama.cpp gave no reason"
    if "unknown model architecture" in text or "unsupported" in text:
        return UnsupportedModel(f"{path.name} cannot be loaded: {text}")
    if "allocat" in text or "out of memory" in text:
        return OutOfMemory(f"{path.name} does not fit: {text}; lower -ngl or choose a smaller quantization")
    return DamagedModel(f"{path.name} is damaged or incomplete: {text}; download it again")
