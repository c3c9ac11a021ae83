"""Every bad argument has its own answer and changes nothing."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from native.llm import (
    ERR_CONTEXT,
    ERR_HEADS,
    ERR_KEPT,
    ERR_LAYERS,
    ERR_LENGTH,
    ERR_ORDER,
    ERR_RANGE,
    ERR_SEQ,
    OK,
    Llm,
    compaction,
)

from lacache_gguf import native

pytestmark = pytest.mark.native

N_CELLS, N_LAYER = 50, 4
INT_MAX, INT_MIN, SIZE_MAX = 2**31 - 1, -(2**31), 2**64 - 1
GOOD = np.tile(np.arange(20, dtype=np.int32), (N_LAYER, 1))


def row(**changes: int) -> np.ndarray:
    """GOOD with entries of its last row changed: row(e0=-1)."""
    keep = GOOD.copy()
    for entry, value in changes.items():
        keep[-1, int(entry[1:])] = value
    return keep


# name: (seq, keep, n_keep, n_layer, n_kept, status)
BAD = {
    "seq-negative": (-1, GOOD, 80, 4, 20, ERR_SEQ),
    "seq-int-min": (INT_MIN, GOOD, 80, 4, 20, ERR_SEQ),
    "seq-empty": (1, GOOD, 80, 4, 20, ERR_SEQ),
    "seq-too-large": (2, GOOD, 80, 4, 20, ERR_SEQ),
    "seq-beyond-any": (256, GOOD, 80, 4, 20, ERR_SEQ),
    "seq-int-max": (INT_MAX, GOOD, 80, 4, 20, ERR_SEQ),
    "layers-zero": (0, GOOD, 0, 0, 20, ERR_LAYERS),
    "layers-negative": (0, GOOD, 80, -4, 20, ERR_LAYERS),
    "layers-fewer": (0, GOOD, 60, 3, 20, ERR_LAYERS),
    "layers-more": (0, np.tile(GOOD, (2, 1)), 100, 5, 20, ERR_LAYERS),
    "layers-int-max": (0, GOOD, 80, INT_MAX, 20, ERR_LAYERS),
    "layers-int-min": (0, GOOD, 80, INT_MIN, 20, ERR_LAYERS),
    "kept-zero": (0, GOOD, 0, 4, 0, ERR_KEPT),
    "kept-negative": (0, GOOD, 80, 4, -20, ERR_KEPT),
    "kept-more-than-cells": (0, np.tile(np.arange(51, dtype=np.int32), (4, 1)), 204, 4, 51, ERR_KEPT),
    "kept-int-max": (0, GOOD, 80, 4, INT_MAX, ERR_KEPT),
    "kept-int-min": (0, GOOD, 80, 4, INT_MIN, ERR_KEPT),
    "plan-null": (0, None, 80, 4, 20, ERR_LENGTH),
    "plan-null-empty": (0, None, 0, 4, 20, ERR_LENGTH),
    "length-zero": (0, GOOD, 0, 4, 20, ERR_LENGTH),
    "length-short": (0, GOOD, 79, 4, 20, ERR_LENGTH),
    "length-long": (0, GOOD, 81, 4, 20, ERR_LENGTH),
    "length-one-row": (0, GOOD, 20, 4, 20, ERR_LENGTH),
    "length-size-max": (0, GOOD, SIZE_MAX, 4, 20, ERR_LENGTH),
    "length-wraps": (0, GOOD, 2**32 + 80, 4, 20, ERR_LENGTH),
    "entry-negative": (0, row(e0=-1), 80, 4, 20, ERR_RANGE),
    "entry-int-min": (0, row(e0=INT_MIN), 80, 4, 20, ERR_RANGE),
    "entry-one-too-large": (0, row(e19=N_CELLS), 80, 4, 20, ERR_RANGE),
    "entry-int-max": (0, row(e19=INT_MAX), 80, 4, 20, ERR_RANGE),
    "entry-repeated": (0, row(e7=8), 80, 4, 20, ERR_ORDER),
    "entry-descending": (0, row(e7=9, e8=8), 80, 4, 20, ERR_ORDER),
    "row-reversed": (0, GOOD[:, ::-1].copy(), 80, 4, 20, ERR_ORDER),
}


@pytest.fixture
def llm(tiny):
    with Llm(tiny("llama"), n_seq=2) as llm:
        llm.decode(np.random.default_rng(0).integers(0, llm.n_vocab, N_CELLS))
        yield llm


# the same for turns: (seq, turn, n_turn, n_layer, shift, n_head, status)
TURN = np.ones((N_LAYER, N_CELLS), np.int32)
BAD_TURNS = {
    "seq-negative": (-1, TURN, 200, 4, 0, 1, ERR_SEQ),
    "seq-empty": (1, TURN, 200, 4, 0, 1, ERR_SEQ),
    "seq-int-max": (INT_MAX, TURN, 200, 4, 0, 1, ERR_SEQ),
    "layers-zero": (0, TURN, 0, 0, 0, 1, ERR_LAYERS),
    "layers-fewer": (0, TURN, 150, 3, 0, 1, ERR_LAYERS),
    "layers-int-min": (0, TURN, 200, INT_MIN, 0, 1, ERR_LAYERS),
    "heads-zero": (0, TURN, 200, 4, 0, 0, ERR_HEADS),
    "heads-other": (0, TURN, 200, 4, 0, 3, ERR_HEADS),
    "heads-int-min": (0, TURN, 200, 4, 0, INT_MIN, ERR_HEADS),
    "turn-null": (0, None, 200, 4, 0, 1, ERR_LENGTH),
    "turn-null-heads": (0, None, 400, 4, 0, 2, ERR_LENGTH),
    "length-zero": (0, TURN, 0, 4, 0, 1, ERR_LENGTH),
    "length-short": (0, TURN, 199, 4, 0, 1, ERR_LENGTH),
    "length-long": (0, TURN, 201, 4, 0, 1, ERR_LENGTH),
    "length-of-a-plan": (0, TURN, 80, 4, 0, 1, ERR_LENGTH),
    "length-without-heads": (0, TURN, 200, 4, 0, 2, ERR_LENGTH),
    "length-wraps": (0, TURN, 2**32 + 200, 4, 0, 1, ERR_LENGTH),
    "length-size-max": (0, TURN, SIZE_MAX, 4, 0, 1, ERR_LENGTH),
    "position-negative": (0, TURN, 200, 4, -1, 1, ERR_RANGE),
    "position-int-min": (0, TURN, 200, 4, INT_MIN, 1, ERR_RANGE),
    "position-int-max": (0, TURN, 200, 4, INT_MAX, 1, ERR_RANGE),
    "turn-int-min": (0, np.full_like(TURN, INT_MIN), 200, 4, 0, 1, ERR_RANGE),
    "turn-too-large": (0, np.full_like(TURN, 2**24 + 1), 200, 4, 0, 1, ERR_RANGE),
}


@pytest.mark.parametrize("call", ["compact", "thin"])
@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_argument_has_its_code_and_changes_nothing(name, call, llm):
    *arguments, status = BAD[name]
    refused(llm, status, call, *arguments)
    assert llm.raw(call, 0, GOOD, 80, 4, 20) == OK  # and the context is still good


@pytest.mark.parametrize("name", sorted(BAD_TURNS))
def test_a_bad_turn_has_its_code_and_changes_nothing(name, llm):
    *arguments, status = BAD_TURNS[name]
    refused(llm, status, "turn", *arguments)
    assert llm.raw("turn", 0, TURN, 200, 4, 3) == OK


def refused(llm: Llm, status: int, call: str, *arguments: object) -> None:
    before = llm.state()
    native.clear_errors()
    assert llm.raw(call, *arguments) == status
    text = compaction().llama_compact_status_str(status).decode()
    assert text in native.recent_errors(), "the reason is logged"
    assert llm.state() == before
    assert (llm.n_cells(0), llm.n_cells(1), llm.pos_next(0)) == (N_CELLS, 0, N_CELLS)


def test_no_context():
    keep = GOOD.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
    for name in ("compact", "thin", "turn"):
        assert getattr(compaction(), f"llama_memory_seq_{name}")(None, 0, keep, 80, 4, 1, 20) == ERR_CONTEXT
    assert native.compact_n_layer(None) == 0
    assert native.seq_n_cells(None, 0) == 0
    assert native.compact_reason(None)


@pytest.mark.parametrize("seq", [-1, 2, 256, INT_MAX, INT_MIN])
def test_an_unknown_sequence_has_no_cells(seq, llm):
    assert llm.n_cells(seq) == 0


def test_every_status_has_its_own_sentence():
    def sentence(status: int) -> str:
        return compaction().llama_compact_status_str(status).decode()

    known = [sentence(status) for status in range(0, -14, -1)]
    unknown = {sentence(status) for status in (1, -14, INT_MAX, INT_MIN)}
    assert all(known)
    assert len(set(known)) == len(known)
    assert len(unknown) == 1
    assert not unknown & set(known)


def test_abi():
    assert compaction().llama_lacache_abi() == native.ABI == 6
