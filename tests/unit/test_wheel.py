"""The wheel that `pip install .` would build: what is in it, and that its library loads from wherever it lies.

Builds with the project's own build folder, so it is quick where the project is built already; minutes where it is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def uv() -> str:
    path = os.environ.get("UV") or shutil.which("uv")
    if not path:
        pytest.skip("uv is not installed")
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [uv(), "build", "--wheel", "--out-dir", str(out), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = out.glob("*.whl")
    return path


def test_wheel_adds_only_our_own_top_level_names(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"lacache_gguf", "lacache_app"}


def test_wheel_carries_libraries_catalog_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    libraries = {Path(name).stem.removeprefix("lib") for name in names if name.startswith("lacache_gguf/lib/")}
    assert {"llama", "ggml", "ggml-base", "ggml-rpc"} <= libraries
    assert "lacache_gguf/catalog.toml" in names
    assert "lacache_gguf/licenses/LICENSE-llama.cpp" in names
    (dist_info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    assert {f"{dist_info}/licenses/LICENSE", f"{dist_info}/licenses/THIRD_PARTY_NOTICES.md"} <= set(names)


def test_wheel_has_one_file_per_library_and_nothing_for_compilers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    files = [Path(name) for name in names if name.startswith("lacache_gguf/lib/")]
    assert {file.suffix for file in files} <= {".so", ".dylib", ".dll"}
    assert len({file.stem for file in files}) == len(files)
    others = [name for name in names if "/licenses/" not in name]
    assert not [name for name in others if name.endswith((".h", ".cmake", ".pc", ".a", ".cpp", ".gguf"))]


def test_installed_wheel_loads_its_library_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "a folder"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = "from lacache_gguf import native; print(native.lib_dir()); print(native.system_info())"
    # -S and PYTHONPATH: no editable install of this checkout, but its dependencies
    packages = [p for p in sys.path if p.endswith("site-packages")]
    env = {k: v for k, v in os.environ.items() if k not in ("LACACHE_LIB_DIR", "LLAMA_CPP_LIB_PATH")}
    env["PYTHONPATH"] = os.pathsep.join([str(target), *packages])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert str(target / "lacache_gguf" / "lib") in done.stdout
    assert "CPU" in done.stdout
