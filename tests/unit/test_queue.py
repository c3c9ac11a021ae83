"""The patch queue tool on a small made-up llama.cpp: same code path as the real one, no network."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import sys
import tarfile
from pathlib import Path

import pytest

PATCHES = Path(__file__).resolve().parents[2] / "patches"
HEADER = "Subject: kv-cache : a hook\nReason: a test\nUpstream-status: not sent\n\n"
UPSTREAM = {
    "CMakeLists.txt": "project(x)\n",
    "include/llama.h": "int a;\nint b;\nint c;\n",
    "src/kv.cpp": "".join(f"line {i}\n" for i in range(40)),
    "src/other.cpp": "one\ntwo\nthree\n",
    "docs/long.md": "never extracted\n",
    ".git": "gitdir: elsewhere\n",
}
EDIT = """diff --git a/src/kv.cpp b/src/kv.cpp
--- a/src/kv.cpp
+++ b/src/kv.cpp
@@ -1,3 +1,4 @@
 line 0
+hook();
 line 1
 line 2
"""


def load():
    """patches/queue.py as the module `patch_queue`; the name `queue` is the standard library's."""
    modules = {}
    for name, file in (("pristine", "pristine.py"), ("patch_queue", "queue.py")):
        spec = importlib.util.spec_from_file_location(name, PATCHES / file)
        modules[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    return modules["patch_queue"]


tool = load()


def make_sdist(path: Path, files: dict[str, str], prefix: str = "some_sdist-1.0/vendor/llama.cpp/") -> str:
    """Writes a tar.gz like the pinned one and returns its sha256."""
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_base(queue: Path, sha256: str) -> None:
    queue.joinpath("BASE").write_text(
        f"# comment\nname=some-sdist\nversion=1.0\nsha256={sha256}\ntree=vendor/llama.cpp\ncommit=0123456789abcdef\n"
    )


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A queue of one patch and one overlay file whose base lies in the download cache."""
    cache = tmp_path / "cache" / "lacache-gguf"
    cache.mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LACACHE_LLAMA_CPP_SOURCE", raising=False)
    root = tmp_path / "patches"
    (root / "overlay" / "src").mkdir(parents=True)
    write_base(root, make_sdist(cache / "some_sdist-1.0.tar.gz", UPSTREAM))
    (root / "series").write_text("# order\nhook.patch\n")
    (root / "hook.patch").write_text(HEADER + EDIT)
    (root / "overlay" / "src" / "lacache.cpp").write_text("int lacache;\n")
    (root / "README.md").write_text("| hook.patch | why |\n")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def mtimes(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_prepare_gives_base_plus_patches_plus_overlay(queue: Path, tmp_path: Path) -> None:
    tool.prepare(queue, tmp_path / "tree")
    tree = {path: data.decode() for path, data in contents(tmp_path / "tree").items() if path != tool.STAMP}
    assert tree == {
        "CMakeLists.txt": UPSTREAM["CMakeLists.txt"],
        "include/llama.h": UPSTREAM["include/llama.h"],
        "src/kv.cpp": UPSTREAM["src/kv.cpp"].replace("line 0\n", "line 0\nhook();\n"),
        "src/other.cpp": UPSTREAM["src/other.cpp"],
        "src/lacache.cpp": "int lacache;\n",
    }


def test_a_second_prepare_touches_nothing(queue: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tool.prepare(queue, tree)
    before = mtimes(tree)
    assert tool.prepare(queue, tree) == []
    assert mtimes(tree) == before


def test_a_changed_patch_rewrites_only_its_file(queue: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tool.prepare(queue, tree)
    before = mtimes(tree)
    (queue / "hook.patch").write_text(HEADER + EDIT.replace("hook()", "hook(1)"))
    assert tool.prepare(queue, tree) == ["src/kv.cpp"]
    changed = {path for path, mtime in mtimes(tree).items() if mtime != before[path]}
    assert changed == {"src/kv.cpp", tool.STAMP}


def test_a_dropped_patch_and_overlay_file_leave_the_tree(queue: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tool.prepare(queue, tree)
    (queue / "series").write_text("")
    (queue / "overlay" / "src" / "lacache.cpp").unlink()
    assert sorted(tool.prepare(queue, tree)) == ["src/kv.cpp", "src/lacache.cpp"]
    assert not (tree / "src" / "lacache.cpp").exists()
    assert (tree / "src" / "kv.cpp").read_text() == UPSTREAM["src/kv.cpp"]


def test_prepare_repairs_a_deleted_file(queue: Path, tmp_path: Path) -> None:
    tool.prepare(queue, tmp_path / "tree")
    (tmp_path / "tree" / "src" / "other.cpp").unlink()
    assert tool.prepare(queue, tmp_path / "tree") == ["src/other.cpp"]


def test_prepare_keeps_hand_edits_unless_forced(queue: Path, tmp_path: Path) -> None:
    tree, edited = tmp_path / "tree", tmp_path / "tree" / "src" / "other.cpp"
    tool.prepare(queue, tree)
    edited.write_text("mine\n")
    assert tool.prepare(queue, tree) == []  # the queue is as it was: the edit is work in progress
    (queue / "hook.patch").write_text(HEADER + EDIT.replace("hook()", "hook(1)"))
    with pytest.raises(tool.QueueError, match=r"src/other\.cpp"):
        tool.prepare(queue, tree)
    assert edited.read_text() == "mine\n"
    tool.prepare(queue, tree, force=True)
    assert edited.read_text() == UPSTREAM["src/other.cpp"]


def test_prepare_refuses_a_folder_that_it_did_not_make(queue: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(tool.QueueError, match="not empty"):
        tool.prepare(queue, tmp_path / "tree")


def test_a_local_tree_is_copied_and_never_changed(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "llama.cpp"
    for name, text in {**UPSTREAM, "build/x.o": "o"}.items():
        tool.write(source / name, text.encode())
    before = contents(source)
    monkeypatch.setenv("LACACHE_LLAMA_CPP_SOURCE", str(source))
    tool.prepare(queue, tmp_path / "tree")
    assert contents(source) == before
    tree = contents(tmp_path / "tree")
    assert b"hook();" in tree["src/kv.cpp"]
    assert not {".git", "build/x.o"} & tree.keys()
    (source / "src" / "other.cpp").write_text("newer\n")
    assert tool.prepare(queue, tmp_path / "tree") == ["src/other.cpp"]


def test_a_wrong_local_source_is_named(queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACACHE_LLAMA_CPP_SOURCE", str(tmp_path / "nowhere"))
    with pytest.raises(tool.QueueError, match="nowhere"):
        tool.prepare(queue, tmp_path / "tree")


def test_a_damaged_download_is_fetched_again_and_a_failure_says_what_to_do(
    queue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdist = tmp_path / "cache" / "lacache-gguf" / "some_sdist-1.0.tar.gz"
    whole = sdist.read_bytes()
    sdist.write_bytes(whole[:-10])
    monkeypatch.setattr("pristine.pip_command", lambda: [sys.executable, "-c", "raise SystemExit('no route to host')"])
    with pytest.raises(tool.QueueError, match=r"(?s)no route to host.*LACACHE_LLAMA_CPP_SOURCE"):
        tool.prepare(queue, tmp_path / "tree")

    (tmp_path / "good").write_bytes(whole)  # now a "pip" that delivers
    deliver = "import shutil, sys; dest = sys.argv[sys.argv.index('--dest') + 1]; "
    deliver += f"shutil.copy({str(tmp_path / 'good')!r}, dest + '/{sdist.name}')"
    monkeypatch.setattr("pristine.pip_command", lambda: [sys.executable, "-c", deliver])
    tool.prepare(queue, tmp_path / "tree")
    assert sdist.read_bytes() == whole
    assert [p.name for p in sdist.parent.iterdir()] == [sdist.name]  # no temporary folder is left


@pytest.mark.parametrize("name", ["../evil.txt", "src/../../evil.txt", "/evil.txt", "C:/evil.txt"])
def test_an_sdist_cannot_write_outside(queue: Path, tmp_path: Path, name: str) -> None:
    sdist = tmp_path / "cache" / "lacache-gguf" / "some_sdist-1.0.tar.gz"
    write_base(queue, make_sdist(sdist, {**UPSTREAM, name: "evil"}))
    with pytest.raises(tool.QueueError, match="unsafe path"):
        tool.prepare(queue, tmp_path / "tree")
    assert not list(tmp_path.rglob("evil.txt"))


def test_refresh_of_an_unedited_tree_changes_no_byte(queue: Path, tmp_path: Path) -> None:
    tool.prepare(queue, tmp_path / "tree")
    before = contents(queue)
    assert tool.refresh(queue, tmp_path / "tree") == []
    assert contents(queue) == before


def test_refresh_carries_edits_back(queue: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tool.prepare(queue, tree)
    kv = tree / "src" / "kv.cpp"
    kv.write_text(kv.read_text().replace("line 30\n", "line 30\nlate_hook();\n"))
    (tree / "src" / "lacache.cpp").write_text("int lacache = 1;\n")
    tool.write(tree / "src" / "more.cpp", b"int more;\n")
    assert tool.refresh(queue, tree) == ["overlay/src/lacache.cpp", "overlay/src/more.cpp", "hook.patch"]
    patch = (queue / "hook.patch").read_text()
    assert patch.startswith(HEADER + "diff --git a/src/kv.cpp b/src/kv.cpp\n--- a/src/kv.cpp\n")
    assert "+hook();" in patch
    assert "+late_hook();" in patch
    again = tmp_path / "again"
    tool.prepare(queue, again)
    assert {**contents(again), tool.STAMP: b""} == {**contents(tree), tool.STAMP: b""}
    before = contents(queue)
    assert tool.refresh(queue, tree) == []
    assert contents(queue) == before
    assert tool.check(queue) == []


def test_refresh_puts_an_edit_into_the_last_patch_of_that_file(queue: Path, tmp_path: Path) -> None:
    second = "diff --git a/src/kv.cpp b/src/kv.cpp\n--- a/src/kv.cpp\n+++ b/src/kv.cpp\n@@ -1,4 +1,5 @@\n"
    (queue / "second.patch").write_text(HEADER + second + " line 0\n hook();\n+second();\n line 1\n line 2\n")
    (queue / "series").write_text("hook.patch\nsecond.patch\n")
    tree = tmp_path / "tree"
    tool.prepare(queue, tree)
    first = (queue / "hook.patch").read_bytes()
    kv = tree / "src" / "kv.cpp"
    kv.write_text(kv.read_text().replace("second();", "third();"))
    assert tool.refresh(queue, tree) == ["second.patch"]
    assert (queue / "hook.patch").read_bytes() == first
    assert "+third();" in (queue / "second.patch").read_text()
    assert "+hook();" not in (queue / "second.patch").read_text()


def test_refresh_asks_where_a_new_upstream_edit_belongs(queue: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tool.prepare(queue, tree)
    (tree / "src" / "other.cpp").write_text("one\ntwo\nadded\nthree\n")
    with pytest.raises(tool.QueueError, match="--into"):
        tool.refresh(queue, tree)
    assert tool.refresh(queue, tree, into="other.patch") == ["series", "other.patch"]
    assert tool.read_series(queue) == ["hook.patch", "other.patch"]
    problems = tool.check(queue)  # a patch made this way still has to say why it exists
    assert any("other.patch" in line and "Reason" in line for line in problems)


def test_refresh_refuses_a_tree_of_another_queue(queue: Path, tmp_path: Path) -> None:
    tool.prepare(queue, tmp_path / "tree")
    (queue / "hook.patch").write_text(HEADER + EDIT.replace("hook()", "hook(1)"))
    with pytest.raises(tool.QueueError, match="prepare"):
        tool.refresh(queue, tmp_path / "tree")


def test_check_accepts_a_sound_queue(queue: Path) -> None:
    assert tool.check(queue) == []


SHIFTED = EDIT.replace("@@ -1,3 +1,4 @@", "@@ -5,3 +5,4 @@").replace("line 0\n", "line 10\n")
SHIFTED = SHIFTED.replace("line 1\n", "line 11\n").replace("line 2\n", "line 12\n")


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("hook.patch", HEADER + EDIT.replace(" line 1\n", " line one\n"), "does not apply"),
        ("hook.patch", HEADER + SHIFTED, "offset"),
        ("hook.patch", HEADER + EDIT.replace("hook();", "hook();  "), "trailing whitespace"),
        ("hook.patch", HEADER.replace("Reason: a test\n", "") + EDIT, "Reason"),
        ("hook.patch", HEADER.replace("not sent", "") + EDIT, "Upstream-status"),
        ("hook.patch", HEADER + EDIT.replace("src/kv.cpp", "src/gone.cpp"), "does not have"),
        ("hook.patch", HEADER + EDIT.replace("src/kv.cpp", "../evil.cpp"), "unsafe path"),
        ("stray.patch", HEADER + EDIT, "stray.patch is not in series"),
        ("series", "hook.patch\nhook.patch\n", "more than once"),
        ("series", "hook.patch\nlost.patch\n", "no such file"),
        ("overlay/src/other.cpp", "mine\n", "exists upstream"),
        ("README.md", "| gone.patch |\n", "no row"),
        ("README.md", "| hook.patch |\n| gone.patch |\n", "gone.patch"),
    ],
)
def test_check_names_what_is_wrong(queue: Path, file: str, text: str, problem: str) -> None:
    (queue / file).write_text(text)
    assert any(problem in line for line in tool.check(queue))


def test_an_offset_is_tolerated_where_the_base_is_not_the_pinned_one(queue: Path, tmp_path: Path) -> None:
    (queue / "hook.patch").write_text(HEADER + SHIFTED)
    tool.prepare(queue, tmp_path / "tree")
    assert "line 10\nhook();\n" in (tmp_path / "tree" / "src" / "kv.cpp").read_text()


def test_size_counts_lines_per_upstream_file(queue: Path) -> None:
    (queue / "hook.patch").write_text(HEADER + EDIT.replace("-1,3 +1,4", "-1,3 +1,3").replace(" line 1\n", "-line 1\n"))
    assert tool.size(queue) == [("src/kv.cpp", 1, 1), ("overlay/src/lacache.cpp", 1, 0)]


def test_commands_report_errors_without_a_traceback(queue: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--queue", str(queue), "check"]) == 0
    (queue / "series").unlink()
    assert tool.main(["--queue", str(queue), "check"]) == 1
    assert "series" in capsys.readouterr().err


def test_one_pin_governs_library_and_bindings() -> None:
    version = tool.read_base(PATCHES).version
    root = PATCHES.parent
    assert f'"llama-cpp-python=={version}"' in (root / "pyproject.toml").read_text("utf-8")
    assert f'_BASE_VERSION = "{version}"' in (root / "lacache_gguf" / "native.py").read_text("utf-8")
