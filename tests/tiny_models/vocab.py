"""The two smallest vocabularies llama.cpp accepts: none at all, and a real byte-level BPE one with a chat template."""

from __future__ import annotations

import gguf

from .writer import Net

N_VOCAB_NONE = 256

MERGES = ["Ġ t", "h e", "Ġt he", "i n", "e r", "a n", "o n", "r e", "Ġ a", "n d", "Ġa nd", "Ġ o", "Ġo f", "in g"]
CONTROL = ["<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_symbols() -> list[str]:
    """The printable stand-in of each of the 256 bytes in byte-level BPE (the table GPT-2 introduced)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols = {byte: chr(byte) for byte in printable}
    rest = [byte for byte in range(256) if byte not in symbols]
    symbols.update({byte: chr(0x100 + i) for i, byte in enumerate(rest)})
    return [symbols[byte] for byte in range(256)]


def add_vocab(net: Net, kind: str) -> int:
    """Add the metadata of vocabulary `kind` ("none" or "bpe") and return the number of tokens.

    "bpe": token b is byte b for b < 256, then the merges, then BOS, EOS and the two ChatML markers; any UTF-8
    text can be tokenized, and a character of several bytes comes out of the model byte by byte.
    """
    if kind == "none":
        net.set("tokenizer.ggml.model", "no_vocab")
        net.set(".vocab_size", N_VOCAB_NONE)
        return N_VOCAB_NONE
    if kind != "bpe":
        raise ValueError(f"vocab must be none or bpe, not {kind!r}")
    tokens = byte_symbols() + [merge.replace(" ", "") for merge in MERGES] + CONTROL
    n_text = len(tokens) - len(CONTROL)
    net.set("tokenizer.ggml.model", "gpt2")
    net.set("tokenizer.ggml.pre", "gpt-2")
    net.set("tokenizer.ggml.tokens", tokens)
    net.set("tokenizer.ggml.merges", MERGES)
    net.set(
        "tokenizer.ggml.token_type",
        [int(gguf.TokenType.NORMAL)] * n_text + [int(gguf.TokenType.CONTROL)] * len(CONTROL),
    )
    net.set("tokenizer.ggml.bos_token_id", tokens.index("<|startoftext|>"))
    net.set("tokenizer.ggml.eos_token_id", tokens.index("<|im_end|>"))
    net.set("tokenizer.ggml.add_bos_token", True)
    net.set("tokenizer.chat_template", CHAT_TEMPLATE)
    return len(tokens)
