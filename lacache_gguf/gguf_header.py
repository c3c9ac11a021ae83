"""Read the header of a GGUF file without loading the model.

What it is: `read_header(path)` checks that a file is a GGUF model and returns its metadata as strings, spelled as
`llama_model_meta_val_str` does, plus the numeric arrays which that leaves out ("[3, 3, 5]": KV heads of every layer).
What it does not know: tensors, vocabulary (string arrays are skipped), chat templates, memory policies.
Format: ggml docs/gguf.md, versions 2 and 3. Every length is checked against the file before it is used.

    >>> read_header(Path("model.gguf")).metadata["general.architecture"]
    'llama'
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from lacache_gguf.errors import DamagedModel, ModelNotFound

SHARD = re.compile(r"^(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})\.gguf$", re.IGNORECASE)

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_N_ARRAY_KEPT = 4096  # longer arrays (token scores and types) say nothing about layers
_N_KV_MAX = 65536
_OTHER_MAGIC = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?)"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: run `git lfs pull` or download the file"),
    (b"<", "an HTML or XML page, probably an error page saved under the model's name"),
    (b"lmgg", "a GGML file older than GGUF; convert it or download a GGUF"),
    (b"tjgg", "a GGML file older than GGUF; convert it or download a GGUF"),
    (b"FUGG", "a big-endian GGUF; download the little-endian one"),
)


@dataclass(frozen=True)
class GgufHeader:
    """Metadata of one GGUF file (the first one, of a sharded model)."""

    metadata: dict[str, str]
    n_tensors: int
    n_vocab: int = 0  # tokens in its vocabulary, 0 where it has none

    @property
    def architecture(self) -> str:
        """general.architecture, "" where the file does not say."""
        return self.metadata.get("general.architecture", "")

    def arch_int(self, key: str, default: int = 0) -> int:
        """Integer under "{architecture}.{key}"; `default` where it is missing or an array."""
        try:
            return int(self.metadata.get(f"{self.architecture}.{key}", default))
        except ValueError:
            return default


class _Reader:
    """Sequential reads from a mapped file; any read past the end is a truncated file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def damaged(self, what: str) -> DamagedModel:
        return DamagedModel(
            f"{self.path} is damaged: {what} at byte {self.at:,} of {len(self.data):,}; download or copy the file again"
        )

    def skip(self, n: int) -> int:
        """Advance by n bytes; returns where they start."""
        start = self.at
        if n < 0 or start + n > len(self.data):
            raise self.damaged(f"it ends inside its header (needs {n:,} more bytes)")
        self.at = start + n
        return start

    def scalar(self, code: str) -> float | bool:
        size = struct.calcsize("<" + code)
        return struct.unpack_from("<" + code, self.data, self.skip(size))[0]

    def count(self, limit: int, what: str) -> int:
        n = int(self.scalar("Q"))
        if n > limit:
            raise self.damaged(f"{what} {n:,} is more than the file can hold")
        return n

    def string(self) -> str:
        n = self.count(len(self.data) - self.at, "string length")
        start = self.skip(n)
        return self.data[start : start + n].decode("utf-8", "replace")

    def skip_strings(self, n: int) -> None:
        """Skip n strings; a tight loop, since vocabularies hold hundreds of thousands."""
        unpack, data, at, end = struct.Struct("<Q").unpack_from, self.data, self.at, len(self.data)
        for _ in range(n):
            if at + 8 > end:
                break
            at += 8 + unpack(data, at)[0]
        else:
            self.skip(at - self.at)
            return
        raise self.damaged("it ends inside a list of strings")

    def value(self, kind: int) -> str | None:
        """One metadata value as llama.cpp prints it; None for arrays that are skipped."""
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return _text(self.scalar(_SCALARS[kind]))
        if kind != _ARRAY:
            raise self.damaged(f"unknown value type {kind}")
        item, n = int(self.scalar("I")), self.count(len(self.data), "array length")
        if item == _STRING:
            self.skip_strings(n)
            return None
        if item not in _SCALARS:
            raise self.damaged(f"unknown array type {item}")
        size = struct.calcsize("<" + _SCALARS[item])
        start = self.skip(n * size)
        if n > _N_ARRAY_KEPT:
            return None
        values = struct.unpack_from(f"<{n}{_SCALARS[item]}", self.data, start)
        return "[" + ", ".join(_text(v) for v in values) + "]"


def _text(value: float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:f}" if isinstance(value, float) else str(value)


def _name_other_file(head: bytes, path: Path) -> str:
    for magic, what in _OTHER_MAGIC:
        if head.startswith(magic):
            return what
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return "a safetensors file; a GGUF conversion of the model is needed"
    if head and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"a text file (it starts with {head[:24].decode('ascii')!r})"
    return f"some other file (it starts with bytes {head[:4].hex(' ')})"


def read_header(path: Path) -> GgufHeader:
    """Check magic, version and header of the file and return its metadata.

    Raises ModelNotFound (no such file, a directory, unreadable) or DamagedModel (not GGUF, truncated, nonsense).
    """
    try:
        if path.is_dir():
            raise ModelNotFound(f"{path} is a directory; give the .gguf file inside it")
        with path.open("rb") as file:
            head = file.read(64)
            if head[:4] != b"GGUF":
                what = _name_other_file(head, path) if head else "empty"
                raise DamagedModel(f"{path} is not a GGUF model: it is {what}")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Reader(data, path))
    except OSError as error:
        raise ModelNotFound(f"cannot read model file {path}: {error.strerror or error}") from error


def _parse(reader: _Reader) -> GgufHeader:
    reader.skip(4)
    version = int(reader.scalar("I"))
    if version not in (2, 3):
        raise reader.damaged(f"GGUF version {version} (2 and 3 are readable)")
    n_tensors = reader.count(len(reader.data), "tensor count")
    n_kv = reader.count(_N_KV_MAX, "metadata count")
    metadata: dict[str, str] = {}
    n_vocab = 0
    for _ in range(n_kv):
        key = reader.string()
        kind, start = int(reader.scalar("I")), reader.at
        value = reader.value(kind)
        if key == "tokenizer.ggml.tokens" and kind == _ARRAY:
            n_vocab = struct.unpack_from("<Q", reader.data, start + 4)[0]
        if value is not None:
            metadata[key] = value
    alignment = metadata.get("general.alignment", "32")
    if not alignment.isdigit() or not 0 < int(alignment) <= 1 << 20:
        raise reader.damaged(f"general.alignment {alignment}")
    _check_tensor_offsets(reader, n_tensors, int(alignment))
    return GgufHeader(metadata, n_tensors, n_vocab)


def _check_tensor_offsets(reader: _Reader, n_tensors: int, alignment: int) -> None:
    """Every tensor must start inside the file: catches an interrupted download before llama.cpp sees the file."""
    last = 0
    for _ in range(n_tensors):
        reader.string()
        n_dims = int(reader.scalar("I"))
        if not 0 < n_dims <= 4:
            raise reader.damaged(f"tensor with {n_dims} dimensions")
        reader.skip(8 * n_dims + 4)  # shape, type
        last = max(last, int(reader.scalar("Q")))
    data_start = -(-reader.at // alignment) * alignment
    if n_tensors and data_start + last >= len(reader.data):
        missing = data_start + last - len(reader.data)
        raise DamagedModel(
            f"{reader.path} is incomplete: at least {missing + 1:,} bytes are missing after its {len(reader.data):,}; "
            "download or copy the file again"
        )


def shard_paths(path: Path) -> list[Path]:
    """All files of a sharded model (name-00001-of-0000N.gguf), first one first; [path] for a single file.

    Raises ModelNotFound when shards are missing next to the given one.
    """
    match = SHARD.match(path.name)
    if match is None:
        return [path]
    count, width = int(match["count"]), 5
    if not 1 <= int(match["index"]) <= count:
        raise DamagedModel(
            f"{path.name}: shard {match['index']} of {match['count']} cannot be; rename or download it again"
        )
    suffix = path.name[-5:]
    paths = [path.with_name(f"{match['stem']}-{i:0{width}d}-of-{match['count']}{suffix}") for i in range(1, count + 1)]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ModelNotFound(f"{path.name} is one of {count} shards; missing in {path.parent}: {shown}")
    return paths
