"""Build tests/native/fuzz with the sanitizers and run it: thousands of bad and good plans, no crash, nothing changed.

In the folder of the last build of the library, if there is one (LACACHE_FUZZ_BUILD names another), this compiles about
fifteen files; else the whole library first.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.native, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
N_CALLS = 500  # of each model and kind of cache
MODELS = {
    "llama": {"n_layer": 3, "n_head_kv": 2},
    "gemma3": {"n_layer": 3, "n_head_kv": 1},  # two caches
    "lfm2": {"n_layer": 3, "n_head": 2, "n_head_kv": (2, 0, 2)},  # a cache and a recurrent state
    "deci-empty": {},  # a layer with rows of no bytes
    "deepseek2": {},  # refused
    "mamba": {},  # refused
}


def build_folder() -> Path:
    if folder := os.environ.get("LACACHE_FUZZ_BUILD"):
        return Path(folder)
    built = [path.parents[3] for path in ROOT.glob("build/*/llama/src/CMakeFiles/llama.dir")]
    return max(built, key=lambda path: path.stat().st_mtime, default=ROOT / "build" / "fuzz")


def cmake(folder: Path) -> str:
    """The CMake that made the folder: another version might compile everything anew."""
    cache = folder / "CMakeCache.txt"
    made_by = re.search(r"^CMAKE_COMMAND:INTERNAL=(.+)$", cache.read_text(), re.M) if cache.exists() else None
    if made_by and Path(made_by[1]).exists():
        return made_by[1]
    return shutil.which("cmake") or pytest.skip("needs CMake on the PATH")


@pytest.fixture(scope="module")
def fuzz_compact() -> Path:
    if sys.platform == "win32":
        pytest.skip("the sanitizers are those of GCC and Clang")
    folder = build_folder()
    tool = cmake(folder)
    configure = [tool, "-S", str(ROOT), "-B", str(folder), "-DLACACHE_FUZZ=ON", "-DCMAKE_BUILD_TYPE=Release"]
    if ninja := shutil.which("ninja"):
        configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}"] if (folder / "build.ninja").exists() else ["-G", "Ninja"]
    for command in (configure, [tool, "--build", str(folder), "--target", "fuzz_compact", "--parallel"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return next(path for path in folder.rglob("fuzz_compact") if path.is_file() and os.access(path, os.X_OK))


def run(program: Path, *arguments: object) -> subprocess.CompletedProcess:
    settings = {"ASAN_OPTIONS": f"detect_leaks={int(sys.platform == 'linux')}", "UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)


def test_bad_plans_do_no_harm(fuzz_compact, tiny):
    done = run(fuzz_compact, 1, N_CALLS, *(tiny(name, **options) for name, options in MODELS.items()))
    assert done.returncode == 0, done.stderr[-5000:]
    line = r"(\d+) compactions, (\d+) .*, (\d+) bad calls, (\d+) scores, (\d+) thinned, (\d+) turned"
    counts = [[int(n) for n in row] for row in re.findall(line, done.stdout)]
    assert all(sum(row) > 0 for row in counts)
    n_ok, n_shared, n_bad, n_scores, n_thinned, n_turned = (sum(column) for column in zip(*counts, strict=True))
    assert n_ok > 1000, "a fuzzer whose plans are all bad proves little"
    assert n_thinned > 1000
    assert n_turned > 1000
    assert n_shared > 100
    assert n_bad > 5000
    assert n_scores > 500


def test_wrong_usage_is_an_error(fuzz_compact):
    done = run(fuzz_compact)
    assert done.returncode == 2
    assert "usage" in done.stderr
