"""Compaction with several sequences: only the named one may change, shared cells are never harmed."""

from __future__ import annotations

import numpy as np
import pytest
from native.checks import check_compacted, random_plan
from native.kv_state import parse_seq
from native.llm import ERR_SHARED, OK, Llm
from reference.kv_oracle import attention_layers

pytestmark = pytest.mark.native

STREAMS = pytest.mark.parametrize("unified", [True, False], ids=["unified", "split"])
FLASH = pytest.mark.parametrize(("kind", "flash_attn"), [("f32", False), ("f16", True), ("q4_0", True)])


@STREAMS
@FLASH
def test_other_sequences_keep_every_bit(unified, kind, flash_attn, tiny, rng):
    path = tiny("qwen3")
    with Llm(path, n_ctx=768, n_seq=3, unified=unified, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        for seq in (0, 1, 2, 1, 0, 2, 1):  # interleaved: in a unified cache the cells of a sequence lie apart
            llm.decode(rng.integers(0, llm.n_vocab, 20 + seq), seq=seq)
        for seq, n_kept in ((1, 30), (2, 25), (1, 11), (0, 39)):
            blobs = [llm.state(i) for i in range(3)]
            before = parse_seq(blobs[seq]).full
            keep = random_plan(rng, len(layers), len(before.pos), n_kept, 2)
            assert llm.compact(keep, seq=seq) == OK
            for i in range(3):
                if i != seq:
                    assert llm.state(i) == blobs[i]
            check_compacted(before, parse_seq(llm.state(seq)).full, keep, layers)
        assert [llm.pos_next(seq) for seq in range(3)] == [39, 11, 25]


@STREAMS
def test_all_sequences_go_on_decoding(unified, tiny, rng):
    """The freed cells are used again; the sequences that were not compacted answer as if nothing had happened."""
    tokens = rng.integers(0, 256, (3, 90))
    results = []
    for compacts in (False, True):
        with Llm(tiny("llama"), n_ctx=768, n_seq=3, unified=unified) as llm:
            for seq in range(3):
                llm.decode(tokens[seq, :60], seq=seq)
            if compacts:
                plan = random_plan(rng, 4, 60, 20)
                assert llm.compact(plan, seq=1) == OK
                assert llm.decode(tokens[1, 60:], seq=1, pos=20).shape == (30, llm.n_vocab)
            results.append([llm.decode(tokens[seq, 60:], seq=seq) for seq in (0, 2)])
    assert np.abs(np.array(results[0]) - np.array(results[1])).max() < 1e-4


def prefix_shared_by_two(llm, rng, n_prefix=40, n_own=30):
    llm.decode(rng.integers(0, llm.n_vocab, n_prefix), seq=0)
    llm.seq_cp(0, 1)
    for seq in (0, 1):
        llm.decode(rng.integers(0, llm.n_vocab, n_own), seq=seq)


@FLASH
def test_a_shared_prefix_may_stay(kind, flash_attn, tiny, rng):
    path = tiny("qwen3")
    with Llm(path, n_seq=2, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        prefix_shared_by_two(llm, rng)
        blob, before = llm.state(0), parse_seq(llm.state(1)).full
        keep = random_plan(rng, len(layers), 70, 55, n_pinned=40)
        assert llm.compact(keep, seq=1) == OK
        assert llm.state(0) == blob
        check_compacted(before, parse_seq(llm.state(1)).full, keep, layers)


@pytest.mark.parametrize("n_pinned", [0, 1, 39])
def test_a_shared_prefix_must_not_change(n_pinned, tiny, rng):
    with Llm(tiny("qwen3"), n_seq=2) as llm:
        prefix_shared_by_two(llm, rng)
        keep = np.tile(np.r_[:n_pinned, n_pinned + 1 : 70], (4, 1))  # drops one cell of the prefix
        before = llm.state()
        for seq in (0, 1):
            assert llm.compact(keep, seq=seq) == ERR_SHARED
            keep[1:] = np.r_[:69]  # one layer is enough
            assert llm.compact(keep, seq=seq) == ERR_SHARED
        assert llm.state() == before
        # without the other sequence the cells are free to move
        llm.seq_rm(0)
        assert llm.compact(keep, seq=1) == OK


def test_leaving_shared_cells_is_no_change_to_them(tiny, rng):
    with Llm(tiny("qwen3"), n_seq=2) as llm:
        prefix_shared_by_two(llm, rng)
        blob = llm.state(0)
        assert llm.compact(np.tile(np.arange(25), (4, 1)), seq=1) == OK  # inside the prefix: nothing moves
        assert llm.state(0) == blob
        assert (llm.n_cells(0), llm.n_cells(1), llm.pos_next(1)) == (70, 25, 25)


@FLASH
def test_a_copy_between_streams_that_is_still_queued_is_done_first(kind, flash_attn, tiny, rng):
    """With a stream per sequence llama_memory_seq_cp() copies rows, but only before the next batch."""
    path = tiny("llama")
    with Llm(path, n_ctx=512, n_seq=2, unified=False, type_k=kind, type_v=kind, flash_attn=flash_attn) as llm:
        layers = attention_layers(path, llm.n_ctx_seq)
        llm.decode(rng.integers(0, llm.n_vocab, 80), seq=0)
        blob = llm.state(0)
        llm.seq_cp(0, 1)
        keep = random_plan(rng, len(layers), 80, 33, 1)
        assert llm.compact(keep, seq=1) == OK
        assert llm.state(0) == blob
        check_compacted(parse_seq(blob).full, parse_seq(llm.state(1)).full, keep, layers)
