"""The edge to C: finds the patched library, lets `llama_cpp` load it, and binds the symbols our patches add.

Knows nothing of policies, text or models. Everything upstream has is used through `llama_cpp`; only the functions of
`patches/overlay/include/llama-lacache.h` are bound here, each with its C declaration above.

    from lacache_gguf import native
    native.compact_n_layer(context.ptr)
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from functools import lru_cache
from pathlib import Path

import numpy as np

import lacache_gguf
from lacache_gguf.errors import LacacheError, OutOfMemory

ABI = 6  # LLAMA_LACACHE_ABI this module was written for
_BASE_VERSION = "0.3.36"  # llama-cpp-python release whose ctypes mirror our library; the same pin as patches/BASE

_LIBRARY_NAMES = {"win32": "{}.dll", "darwin": "lib{}.dylib"}


ERR_UNSUPPORTED = -2
"""Status of a call that cannot be done with this memory, model or device."""

ERR_COMPUTE = -11
"""Status of a call that failed half way; the cells of the sequence are gone then."""


class NativeError(LacacheError):
    """The patched library is missing, of another version, or refused a call."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def library(directory: Path, name: str) -> Path:
    """Where the library `name` ("llama", "ggml", ...) of this platform is in a folder."""
    return directory / _LIBRARY_NAMES.get(sys.platform, "lib{}.so").format(name)


def lib_dir() -> Path:
    """The folder of libllama and ggml: LACACHE_LIB_DIR, else `lib/` of the installed package.

    Raises NativeError if no library is there.
    """
    override = os.environ.get("LACACHE_LIB_DIR")
    places = [Path(override)] if override else [Path(entry) / "lib" for entry in lacache_gguf.__path__]
    for place in places:
        if library(place, "llama").exists():
            return place
    raise NativeError(
        f"the patched llama.cpp library was not found in {', '.join(map(str, places))}; "
        "build it with `uv sync --reinstall-package lacache-gguf` or `pip install .`"
    )


@lru_cache(maxsize=1)
def load():
    """Load the patched library once and return the module `llama_cpp.llama_cpp`.

    Raises NativeError when the library is missing, is a stock one, or does not match the bindings.
    """
    directory = lib_dir()
    if "llama_cpp" in sys.modules and os.environ.get("LLAMA_CPP_LIB_PATH") != str(directory):
        raise NativeError("llama_cpp was imported before lacache_gguf with another library; import lacache_gguf first")
    os.environ["LLAMA_CPP_LIB_PATH"] = str(directory)
    try:
        import llama_cpp
    except (OSError, RuntimeError, FileNotFoundError) as error:
        raise NativeError(f"the library in {directory} cannot be loaded: {error}") from error
    if llama_cpp.__version__ != _BASE_VERSION:
        raise NativeError(
            f"llama-cpp-python {llama_cpp.__version__} does not mirror our library, which was built from the "
            f"llama.cpp of {_BASE_VERSION}; install llama-cpp-python=={_BASE_VERSION}"
        )
    lib = llama_cpp.llama_cpp
    _bind(lib._lib, lib.llama_context_params, directory)
    lib.llama_log_set(_log_callback(lib), ctypes.c_void_p(0))
    lib.llama_backend_init()
    return lib


def load_error() -> str | None:
    """Why the library cannot be used, or None if it can."""
    try:
        load()
    except NativeError as error:
        return str(error)
    return None


def system_info() -> str:
    """Build features of the library, as llama.cpp prints them."""
    return load().llama_print_system_info().decode()


def declare(lib: ctypes.CDLL, name: str, restype, *argtypes) -> None:
    """Tell ctypes the types of a C function."""
    function = getattr(lib, name)
    function.restype, function.argtypes = restype, argtypes


def _bind(lib: ctypes.CDLL, params: type, directory: Path) -> None:
    i32, size_t, ptr, text = ctypes.c_int32, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_char_p
    try:
        # int32_t llama_lacache_abi(void);
        declare(lib, "llama_lacache_abi", i32)
    except AttributeError as error:
        raise NativeError(f"the library in {directory} is a stock llama.cpp without LaCache; rebuild it") from error
    if (abi := lib.llama_lacache_abi()) != ABI:
        raise NativeError(f"the library in {directory} has LaCache ABI {abi}, this package needs {ABI}; rebuild it")
    # int32_t llama_lacache_cell_step(void);
    declare(lib, "llama_lacache_cell_step", i32)
    # struct llama_context * llama_lacache_init_from_model(struct llama_model * model,
    #         struct llama_context_params params);
    declare(lib, "llama_lacache_init_from_model", ptr, ptr, params)
    # const char * llama_compact_status_str(int32_t status);
    declare(lib, "llama_compact_status_str", text, i32)
    # const char * llama_memory_compact_reason(const struct llama_context * ctx);
    declare(lib, "llama_memory_compact_reason", text, ptr)
    # int32_t llama_memory_compact_n_layer(const struct llama_context * ctx);
    declare(lib, "llama_memory_compact_n_layer", i32, ptr)
    # int32_t llama_memory_seq_n_cells(const struct llama_context * ctx, llama_seq_id seq_id);
    declare(lib, "llama_memory_seq_n_cells", i32, ptr, i32)
    # int32_t llama_memory_compact_n_head_kv(const struct llama_context * ctx);
    declare(lib, "llama_memory_compact_n_head_kv", i32, ptr)
    # const char * llama_memory_compact_head_reason(const struct llama_context * ctx);
    declare(lib, "llama_memory_compact_head_reason", text, ptr)
    # int32_t llama_memory_seq_compact(struct llama_context * ctx, llama_seq_id seq_id,
    #         const int32_t * keep, size_t n_keep, int32_t n_layer, int32_t n_head, int32_t n_kept);
    declare(lib, "llama_memory_seq_compact", i32, ptr, i32, ctypes.POINTER(i32), size_t, i32, i32, i32)
    # int32_t llama_memory_seq_thin(struct llama_context * ctx, llama_seq_id seq_id,
    #         const int32_t * keep, size_t n_keep, int32_t n_layer, int32_t n_head, int32_t n_kept);
    declare(lib, "llama_memory_seq_thin", i32, ptr, i32, ctypes.POINTER(i32), size_t, i32, i32, i32)
    # int32_t llama_memory_seq_turn(struct llama_context * ctx, llama_seq_id seq_id,
    #         const int32_t * turn, size_t n_turn, int32_t n_layer, int32_t n_head, llama_pos shift);
    declare(lib, "llama_memory_seq_turn", i32, ptr, i32, ctypes.POINTER(i32), size_t, i32, i32, i32)
    floats = ctypes.POINTER(ctypes.c_float)
    # int32_t llama_memory_seq_score_keys(struct llama_context * ctx, llama_seq_id seq_id,
    #         int32_t first, float * scores, size_t n_scores);
    declare(lib, "llama_memory_seq_score_keys", i32, ptr, i32, i32, floats, size_t)
    # const char * llama_memory_query_reason(const struct llama_context * ctx);
    declare(lib, "llama_memory_query_reason", text, ptr)
    # int32_t llama_memory_set_n_query(struct llama_context * ctx, int32_t n_query, bool spread);
    declare(lib, "llama_memory_set_n_query", i32, ptr, i32, ctypes.c_bool)
    # int32_t llama_memory_n_query(const struct llama_context * ctx, llama_seq_id seq_id);
    declare(lib, "llama_memory_n_query", i32, ptr, i32)
    # int32_t llama_memory_seq_score_attention(struct llama_context * ctx, llama_seq_id seq_id,
    #         float * scores, size_t n_scores);
    declare(lib, "llama_memory_seq_score_attention", i32, ptr, i32, floats, size_t)
    # int32_t llama_lacache_set_n_vocab(struct llama_context * ctx, int32_t n_vocab);
    declare(lib, "llama_lacache_set_n_vocab", i32, ptr, i32)


# ---- cells ---------------------------------------------------------------------------------------------------------


def cell_step() -> int:
    """KV memory is allocated in steps of this many cells: 32, or 256 where ggml has a GPU."""
    return load()._lib.llama_lacache_cell_step()


def init_from_model(model, params):
    """llama_init_from_model, but `params.n_ctx` cells are rounded up to `cell_step`, not to 256; None if it fails."""
    return load()._lib.llama_lacache_init_from_model(model, params)


# ---- compaction ----------------------------------------------------------------------------------------------------


def compact_reason(ctx) -> str | None:
    """Why the memory of `ctx` cannot be compacted, or None if it can."""
    reason = load()._lib.llama_memory_compact_reason(ctx)
    return reason.decode() if reason else None


def compact_n_layer(ctx) -> int:
    """Rows a plan needs: layers of the full-attention KV cache (0 if it cannot be compacted)."""
    return load()._lib.llama_memory_compact_n_layer(ctx)


def seq_n_cells(ctx, seq_id: int = 0) -> int:
    """Cells that `seq_id` holds in the full-attention KV cache."""
    return load()._lib.llama_memory_seq_n_cells(ctx, seq_id)


def compact_n_head_kv(ctx) -> int:
    """KV heads, the same in every full-attention layer; 0 if they differ or the memory cannot be compacted."""
    return load()._lib.llama_memory_compact_n_head_kv(ctx)


def compact_head_reason(ctx) -> str | None:
    """Why the KV heads of a layer cannot keep cells of their own, or None if they can."""
    reason = load()._lib.llama_memory_compact_head_reason(ctx)
    return reason.decode() if reason else None


def seq_compact(ctx, keep: np.ndarray, seq_id: int = 0) -> None:
    """Keep the cells `keep` of `seq_id`, drop the rest, renumber 0..n_kept-1; keys turn to their new position.

    `keep`: int32 [n_layer, n_kept], or [n_layer, n_head_kv, n_kept] for cells of its own in every KV head.
    Raises NativeError with the status of llama-lacache.h; OutOfMemory if the work buffers do not fit.
    """
    _call_with_box("llama_memory_seq_compact", "compaction", ctx, seq_id, keep)


def seq_thin(ctx, keep: np.ndarray, seq_id: int = 0) -> None:
    """The same, but keys stay turned by the positions they have; in the table cells count backwards from the newest."""
    _call_with_box("llama_memory_seq_thin", "thinning", ctx, seq_id, keep)


def seq_turn(ctx, turn: np.ndarray, shift: int, seq_id: int = 0) -> None:
    """Turn the keys of every cell by `turn` positions, int32 [n_layer, n_cells] or [n_layer, n_head_kv, n_cells].

    The positions in the table change by `shift`. Raises as `seq_compact` does.
    """
    _call_with_box("llama_memory_seq_turn", "turning", ctx, seq_id, turn, shift)


def _call_with_box(name: str, what: str, ctx, seq_id: int, box: np.ndarray, last: int | None = None) -> None:
    box = np.ascontiguousarray(box, dtype=np.int32)
    if box.ndim not in (2, 3):
        raise NativeError(f"{what} needs [n_layer, n] or [n_layer, n_head_kv, n] numbers, not shape {box.shape}")
    n_layer, n_head, n = box.shape if box.ndim == 3 else (box.shape[0], 1, box.shape[1])
    pointer = box.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
    status = getattr(load()._lib, name)(ctx, seq_id, pointer, box.size, n_layer, n_head, n if last is None else last)
    _check(status, f"{what} of {n} cells failed")


def _check(status: int, failed: str) -> None:
    if status != 0:
        text = f"{failed}: {load()._lib.llama_compact_status_str(status).decode()}"
        raise OutOfMemory(text) if status == -10 else NativeError(text, status)


# ---- scores --------------------------------------------------------------------------------------------------------


def score_keys(ctx, seq_id: int = 0, first: int = 0) -> np.ndarray:
    """How little keys are like each other (KeyDiff, arXiv 2504.15364): float32 [n_layer, n_head_kv, n_cells - first].

    -cos(k, mean of the normalized keys) over the cells from `first` on, with keys without the rotation by their
    position in the table; in [-1, 1], higher = keep.
    Raises NativeError with the status of llama-lacache.h; OutOfMemory if the work buffers do not fit.
    """
    return _scores("llama_memory_seq_score_keys", ctx, seq_id, first)


def query_reason(ctx) -> str | None:
    """Why the queries of `ctx` cannot be recorded and scored, or None if they can."""
    reason = load()._lib.llama_memory_query_reason(ctx)
    return reason.decode() if reason else None


def set_n_query(ctx, n_query: int, spread: bool = False) -> None:
    """Record `n_query` queries from now on, those of the newest tokens or spread over more; 0 = off. What was recorded
    before is forgotten.

    Raises NativeError with the status of llama-lacache.h; OutOfMemory if the buffers do not fit.
    """
    status = load()._lib.llama_memory_set_n_query(ctx, n_query, spread)
    _check(status, f"recording {n_query} queries failed ({query_reason(ctx) or 'check the number'})" if status else "")


def n_query(ctx, seq_id: int = 0) -> int:
    """Queries recorded since the numbering of the cells last changed."""
    return load()._lib.llama_memory_n_query(ctx, seq_id)


def score_attention(ctx, seq_id: int = 0) -> np.ndarray:
    """Attention that the recorded queries give to every cell: float32 [n_layer, n_head_kv, n_cells].

    Mean over the query heads of a KV head and over the queries; a row sums up to 1, less what goes to sinks.
    Raises NativeError with the status of llama-lacache.h; OutOfMemory if the work buffers do not fit.
    """
    return _scores("llama_memory_seq_score_attention", ctx, seq_id)


def _scores(name: str, ctx, seq_id: int, *first: int) -> np.ndarray:
    n_cells = max(0, seq_n_cells(ctx, seq_id) - sum(first))
    scores = np.empty((compact_n_layer(ctx), compact_n_head_kv(ctx), n_cells), np.float32)
    pointer = scores.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    status = getattr(load()._lib, name)(ctx, seq_id, *first, pointer, scores.size)
    _check(status, f"scoring {n_cells} cells failed")
    return scores


# ---- losses --------------------------------------------------------------------------------------------------------


def set_n_vocab(ctx, n_vocab: int) -> bool:
    """Compute losses among the first `n_vocab` tokens instead of logits, where all tokens of a ubatch are outputs; of
    its last token all logits; 0 = all of all. False, with nothing changed, if this model or device cannot do that.

    Raises NativeError for a number out of range; OutOfMemory if the buffers do not fit.
    """
    status = load()._lib.llama_lacache_set_n_vocab(ctx, n_vocab)
    if status == ERR_UNSUPPORTED:
        return False
    _check(status, f"a vocabulary of {n_vocab} tokens was refused")
    return True


# ---- log -----------------------------------------------------------------------------------------------------------

_recent_log: deque[str] = deque(maxlen=64)
_verbose = False
_callbacks: list = []  # ctypes callbacks must outlive the library


def set_verbose(verbose: bool) -> None:
    """Print llama.cpp's log to stderr (True) or only remember its last lines (False)."""
    global _verbose
    _verbose = verbose


def recent_errors() -> str:
    """The last complaints of llama.cpp, for the text of an error."""
    return "; ".join(_recent_log)


def clear_errors() -> None:
    """Forget older complaints before a call whose own ones matter."""
    _recent_log.clear()


def _log_callback(lib):
    @lib.llama_log_callback
    def callback(level: int, text: bytes, _user_data) -> None:
        line = text.decode("utf-8", "replace")
        if _verbose:
            print(line, end="", file=sys.stderr, flush=True)
        if level == 4 and line.strip():  # GGML_LOG_LEVEL_ERROR
            _recent_log.append(line.strip())

    _callbacks.append(callback)
    return callback
