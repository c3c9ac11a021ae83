"""`lacache demo`, `chat`, `models` and `doctor` on the fake engine."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from lacache_app.commands import demo

pytestmark = pytest.mark.usefixtures("model")


def test_demo_reads_the_language_reference(fake_engine, lacache):
    code, out, err = lacache("demo", "--tokens", "5000", "-c", "512")
    engine = fake_engine.opened[0]
    assert code == 0
    assert out.startswith("A summary of ")
    for row in ("tokens seen", "cells, peak", "KV memory used", "full cache", "compactions", "reading", "writing"):
        assert row in out
    assert "trained on 8,192 tokens" in err
    assert demo.python_reference()[:4000] in engine.detokenize(engine.seen)
    assert engine.n_cells_peak <= 512


def test_the_reference_is_long_enough_for_the_demo():
    assert len(demo.python_reference()) > 3 * demo.N_TOKENS, "English has fewer tokens than a third of its characters"


def test_demo_without_the_reference(fake_engine, lacache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    code, _, err = lacache("demo")
    assert code == 2
    assert "lacache summarize FILE" in err


def test_chat_from_a_pipe_answers_once(fake_engine, lacache, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Why?\nTell me.\n")))
    code, out, err = lacache("chat", "-sys", "Be brief.")
    assert code == 0
    assert out.startswith("A summary of ")
    assert out.count("\n") == 1
    assert err == ""
    assert fake_engine.opened[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?\nTell me."},
    ]


def test_chat_from_an_empty_pipe(fake_engine, lacache, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    code, _, err = lacache("chat")
    assert code == 2
    assert "standard input is empty" in err


def test_models_path_and_list(lacache, model):
    assert lacache("models", "path", str(model)) == (0, f"{model}\n", "")
    code, out, _ = lacache("models", "list")
    assert code == 0
    assert "smollm2-135m" in out
    code, out, err = lacache("models", "path", "no-such-model")
    assert (code, out) == (3, "")
    assert err.startswith("error: no model called 'no-such-model'")


@pytest.fixture
def sound_machine(monkeypatch, model):
    """A machine on which doctor finds nothing wrong."""
    from lacache_gguf import catalog, devices, hub, native
    from lacache_gguf.catalog import ResolvedModel

    monkeypatch.setattr(native, "load_error", lambda: None)
    monkeypatch.setattr(native, "lib_dir", lambda: Path("/opt/lib"))
    monkeypatch.setattr(native, "system_info", lambda: "AVX2 = 1 |")
    device = devices.Device("CUDA0", "A GPU", "gpu", 3 << 30, 8 << 30)
    monkeypatch.setattr(devices, "devices", lambda: [device])
    monkeypatch.setattr(catalog, "resolve", lambda _name: ResolvedModel(model, "m", "MIT", "catalog"))
    monkeypatch.setattr(catalog, "has_sha256", lambda *_: True)
    monkeypatch.setattr(hub, "cache_dir", lambda: model.parent / "hub")
    return monkeypatch


def test_doctor_on_a_sound_machine(lacache, sound_machine):
    code, out, err = lacache("doctor")
    assert (code, err) == (0, "")
    assert "3.00 GiB free of 8.00 GiB" in out
    assert "/opt/lib" in out
    assert out.endswith("all is well\n")


def test_doctor_names_everything_that_is_broken(lacache, sound_machine):
    from lacache_gguf import catalog, native

    sound_machine.setattr(native, "load_error", lambda: "the library was not found; build it")
    sound_machine.setattr(catalog, "has_sha256", lambda *_: False)
    code, out, _ = lacache("doctor")
    assert code == 1
    assert "problem with the library: the library was not found; build it" in out
    assert "problem with the model" in out
    assert "force-reinstall" in out
    assert "hub cache  " in out, "what works is still shown"
