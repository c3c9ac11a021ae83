"""Pictures of stored results: all that was measured is drawn, what is no result is named, nothing is left behind."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from lacache_gguf.errors import UsageError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where pictures lie while they are drawn."""
    pytest.importorskip("matplotlib")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not any(folder.iterdir())


def pictures_of(path):
    from lacache_app.evaluate.pictures import pictures_of

    return pictures_of(path)


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (RESULTS / name).read_text("utf-8").splitlines()]


def written(tmp_path, rows) -> Path:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_perplexity_of_every_text_and_size_and_quality_against_memory():
    images = pictures_of(RESULTS / "2026-11-28-quality.jsonl")
    texts = ("essays-macdowell.txt", "play-pinero.txt", "pydoc")
    sizes = ("5.625mib", "11.25mib", "22.5mib")
    assert set(images) == {"quality", *(f"perplexity-{text}-{size}" for text in texts for size in sizes)}
    assert all(data.startswith(PNG) for data in images.values())


def test_maps_of_depth_by_length():
    assert set(pictures_of(RESULTS / "2026-11-28-passkey.jsonl")) == {
        "passkey-50-of-the-prompt",
        "passkey-25-of-the-prompt",
    }
    assert {name.split("-")[0] for name in pictures_of(RESULTS / "2026-11-28-needles.jsonl")} == {"multikey"}


def test_the_full_cache_stands_beside_every_size(tmp_path, monkeypatch):
    from lacache_app.evaluate import plots

    seen = []
    monkeypatch.setattr(plots, "_label", lambda ax, *words: seen.append(len(ax.lines)))
    known = {row["id"]: row for row in lines("2026-11-28-quality.jsonl") if row["text"]["name"] == "pydoc"}
    rows = list(known.values())
    n_full = sum(row["memory"]["policy"]["name"] == "full" for row in rows)
    n_sizes = len({row["size"] for row in rows if row["memory"]["policy"]["name"] != "full"})
    pictures_of(written(tmp_path, rows))
    assert n_full == 1
    assert sum(seen[:n_sizes]) == len(rows) - n_full + n_sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "line 1, is no result of this version"),
        ({"eval": "summary"}, "no result of ppl, agree, passkey or needles"),
        ({"loss_sums": "x"}, "makes no sense"),
        ({"loss_sums": []}, "makes no sense"),
        ({"size": "all of it"}, "all of it"),
        ({"memory": None}, "makes no sense"),
        ({"kv_bytes": "many"}, "makes no sense"),
    ],
)
def test_what_is_no_result_is_named(tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        pictures_of(written(tmp_path, [lines("2026-11-28-quality.jsonl")[0] | change]))


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_losses_beyond_all_numbers_are_named(tmp_path):
    rows = [row | {"loss_sums": [1e9] * 32} for row in lines("2026-11-28-quality.jsonl") if row["name"] == "default"]
    with pytest.raises(UsageError, match="makes no sense"):
        pictures_of(written(tmp_path, rows))


def test_files_of_other_kinds(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\x00 no text")
    with pytest.raises(UsageError, match=r"a\.jsonl, line 1, is no result"):
        pictures_of(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b"")
    with pytest.raises(UsageError, match="has no result"):
        pictures_of(tmp_path / "b.jsonl")
    monkeypatch.setattr("lacache_app.evaluate.pictures.N_BYTES_MAX", 10)
    with pytest.raises(UsageError, match="larger than"):
        pictures_of(RESULTS / "2026-11-28-quality.jsonl")


def test_the_page_holds_the_pictures_themselves():
    pytest.importorskip("gradio")
    from lacache_app.ui.compare_html import pictures

    page = pictures({'a"><script>': PNG})
    assert "<script>" not in page
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in page
