"""models_html: names, licences and errors come from files and hubs, so nothing of them may become markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from lacache_app.download_status import Status
from lacache_app.estimate import FreeMemory, ModelShape
from lacache_app.host import EngineSettings, HostStatus
from lacache_app.load_choice import Choice, explain
from lacache_app.model_library import Entry
from lacache_app.ui import models_html

from lacache_gguf.gguf_header import GgufHeader
from lacache_gguf.hub import Offer, RemoteFile
from lacache_gguf.hub_names import HubRef, Variant
from lacache_gguf.kv_budget import KvGeometry, KvLayer

EVIL = "<img src=x onerror=alert(1)>\"'&"
GIB = 2**30
SMOL = ModelShape(
    KvGeometry((KvLayer(3, 64, 64),) * 30, n_layer=30, n_ctx_train=8192),
    weights_bytes=98_362_432, n_vocab=49152, n_embd=576, n_ff=1536, n_head=9,
)  # fmt: skip


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _value in attrs)

    def handle_data(self, data):
        self.text += data


def parsed(html: str) -> _Tags:
    parser = _Tags()
    parser.feed(html)
    return parser


def entry(state: str = "ready", **changes) -> Entry:
    header = GgufHeader({"general.architecture": EVIL, "general.size_label": EVIL, "general.organization": EVIL}, 1)
    values = {"licence": EVIL, "size_bytes": 3 * GIB, "reason": EVIL, "header": header}
    return Entry(EVIL, EVIL, "hub", state, **{**values, **changes})


@pytest.mark.parametrize(
    "html",
    [
        models_html.details(entry()),
        models_html.details(entry("full only")),
        models_html.unusable([entry("damaged")]),
        models_html.error(EVIL),
        models_html.news(EVIL),
        models_html.present(HostStatus("idle", EngineSettings(EVIL), 0, EVIL, 1024, GIB, EVIL)),
        models_html.present(HostStatus("loading", EngineSettings(EVIL), 0)),
        models_html.present(HostStatus("empty", EngineSettings(EVIL), 0)),
        models_html.progress([Status(EVIL, "failed", error=EVIL), Status(EVIL, "running", 1, 2)]),
        models_html.offer(
            Offer(HubRef("a/b"), "0" * 40, Variant(EVIL, ("m.gguf",)), (RemoteFile("m.gguf", GIB, None),), EVIL, {}),
            GIB,
        ),
    ],
)
def test_nothing_foreign_becomes_markup(html):
    found = parsed(html)
    assert "img" not in found.tags
    assert EVIL in found.text


def test_the_answer_to_the_slider_has_everything():
    choice = Choice("smollm2-135m", 22.5, type_k="q4_0")
    found = parsed(models_html.explanation(explain(choice, SMOL, [FreeMemory("RAM", 10 * GIB)])))
    for text in ("Needs ", "10 GiB are free: fits", "cells of", "sharp", "faint", "q8_0"):
        assert text in found.text
    small = parsed(models_html.explanation(explain(choice, SMOL, [FreeMemory("RAM", 10)])))
    assert "does not fit: choose a smaller quantization" in small.text


def test_the_line_of_a_model():
    assert models_html.label(Entry("x", "X", "folder", "full only", 2**30)) == (
        "X · 1 GiB · licence unknown · your folder · cannot forget"
    )


def test_an_offer_that_does_not_fit_the_disk(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    offer = Offer(
        HubRef("a/b"), "0" * 40, Variant("Q8_0", ("m.gguf",)), (RemoteFile("m.gguf", 5 * GIB, None),), None, {}
    )
    assert "5 GiB to download, 3 GiB are free on the disk: 2 GiB too few." in models_html.offer(offer, 3 * GIB)
    assert "licence not stated" in models_html.offer(offer, 3 * GIB)


def test_empty_states_say_what_to_do():
    assert "Choose a model" in models_html.details(None)
    assert "Nothing is being downloaded" in models_html.progress(())
    assert models_html.unusable([entry()]) == ""
