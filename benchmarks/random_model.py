"""Write a model of random weights with the shape of an 8-billion-parameter Llama, for speeds that no small model shows.

Shape: 32 layers, 4,096 wide, 32 query and 8 KV heads of 128, feed-forward 14,336, RoPE base 500,000, 131,072 positions
(Llama 3.1 8B). Tokenizer and vocabulary are another model's (-m), so that texts can be read; its output is noise. The
matrices are Q4_0: random bits for the values, one scale for all blocks of a matrix, such that numbers neither grow nor
vanish from layer to layer. 3.9 GiB with the default vocabulary, the same bytes for the same seed and numpy.

    python benchmarks/random_model.py 8b.gguf && python benchmarks/speed.py -m 8b.gguf
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
from common import progress

from lacache_gguf.catalog import resolve

N_LAYER, N_EMBD, N_HEAD, N_HEAD_KV, N_FF, N_CTX = 32, 4096, 32, 8, 14336, 131072
BLOCK_VALUES, BLOCK_BYTES = 32, 18  # of Q4_0: a half-precision scale, then 16 bytes of two values each
STD = 4.61  # standard deviation of a uniform number of 0, 1, ..., 15


def q4_0(rng: np.random.Generator, n_out: int, n_in: int) -> np.ndarray:
    """uint8 [n_out, n_in / 32 * 18]: an input of variance 1 gives outputs of variance 1, about."""
    blocks = rng.integers(0, 256, (n_out, n_in // BLOCK_VALUES, BLOCK_BYTES), dtype=np.uint8)
    blocks[..., :2] = np.frombuffer(np.float16(1 / (STD * np.sqrt(n_in))).tobytes(), np.uint8)
    return blocks.reshape(n_out, -1)


def copy_vocabulary(writer: gguf.GGUFWriter, path: Path) -> int:
    """Write the tokenizer of a model file into `writer`; the size of its vocabulary."""
    reader = gguf.GGUFReader(path)
    for name, field in reader.fields.items():
        if name.startswith("tokenizer."):
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    return len(reader.fields["tokenizer.ggml.tokens"].contents())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("out", type=Path)
    options.add_argument("-m", "--model", default="smollm2-135m", help="whose vocabulary it gets")
    options.add_argument("--layers", type=int, default=N_LAYER)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    rng = np.random.default_rng(args.seed)
    writer = gguf.GGUFWriter(args.out, "llama")
    n_vocab = copy_vocabulary(writer, resolve(args.model).path)
    writer.add_name(f"random weights, {args.layers} layers of Llama 8B's shape")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(args.layers)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(n_vocab)

    n_kv = N_EMBD // N_HEAD * N_HEAD_KV
    matrices = {
        "attn_q": (N_EMBD, N_EMBD), "attn_k": (n_kv, N_EMBD), "attn_v": (n_kv, N_EMBD), "attn_output": (N_EMBD, N_EMBD),
        "ffn_gate": (N_FF, N_EMBD), "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF),
    }  # fmt: skip
    ones = np.ones(N_EMBD, np.float32)
    for name in ("token_embd.weight", "output.weight"):
        writer.add_tensor(name, q4_0(rng, n_vocab, N_EMBD), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("output_norm.weight", ones)
    for il in range(args.layers):
        for name, shape in matrices.items():
            writer.add_tensor(f"blk.{il}.{name}.weight", q4_0(rng, *shape), raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{il}.{name}.weight", ones)
        progress(f"layer {il + 1} of {args.layers}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    progress(f"{args.out}: {args.out.stat().st_size / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
