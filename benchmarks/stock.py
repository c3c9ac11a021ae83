"""The other side of a comparison: llama.cpp of the same commit without our patches.

`find_or_build` gives the folder of its libraries: the one named by --stock-lib, else build/stock, compiled there once
(4 minutes on 2 cores) from the pinned sdist with the options of our own build. `Stock` drives it in a process of its
own.

    with Stock(find_or_build(None)) as stock:
        stock.open(model="model.gguf", n_ctx=1024, n_ubatch=512, n_threads=2, type_k="f16", type_v="f16")
        stock.generate(n=100)["seconds"]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, progress

BUILD = ROOT / "build" / "stock"
OPTIONS = (  # as in our CMakeLists.txt: libraries and backends, nothing else
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=ON", "-DGGML_RPC=ON", "-DGGML_RPC_RDMA=OFF",
    "-DLLAMA_BUILD_COMMON=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_OPENSSL=OFF",
)  # fmt: skip


def add_option(options: argparse.ArgumentParser) -> None:
    """--stock-lib for benchmarks that need the stock library."""
    options.add_argument(
        "--stock-lib", type=Path, metavar="DIR", help="folder of a stock libllama; default: build/stock"
    )


def _has_library(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("libllama.so", "libllama.dylib", "llama.dll"))


def find_or_build(given: Path | None) -> Path:
    """The folder with a stock libllama. CMAKE_ARGS reach the build as they reach ours."""
    if given is not None:
        if not _has_library(given):
            raise SystemExit(f"no libllama in {given}")
        return given.resolve()
    extra = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    base = (ROOT / "patches" / "BASE").read_bytes()
    key = hashlib.sha256(json.dumps([base.decode(), OPTIONS, extra]).encode()).hexdigest()
    stamp, folder = BUILD / "stamp", BUILD / "build" / "bin"
    if not (stamp.is_file() and stamp.read_text() == key and _has_library(folder)):
        _build(extra)
        stamp.write_text(key)
    return folder


def _build(extra: list[str]) -> None:
    pristine = _pristine()
    base = pristine.read_base(ROOT / "patches")
    progress(f"building the stock llama.cpp of {base.commit[:9]} in {BUILD.relative_to(ROOT)}")
    source = BUILD / "llama.cpp"
    shutil.rmtree(BUILD, ignore_errors=True)
    for path, data in pristine.pristine_tree(base, os.environ.get("LACACHE_LLAMA_CPP_SOURCE")).items():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    if (source / "src" / "llama-lacache.cpp").exists():
        raise SystemExit("LACACHE_LLAMA_CPP_SOURCE is a patched tree; a comparison needs a stock one")
    cmake = [shutil.which("cmake")] if shutil.which("cmake") else [_uv(), "tool", "run", "cmake"]
    build = BUILD / "build"
    ninja = ["-G", "Ninja"] if shutil.which("ninja") else []
    no_git = (f"-DLLAMA_BUILD_COMMIT={base.commit[:9]}", "-DLLAMA_BUILD_NUMBER=0")  # it would find our repository
    configure = [*cmake, "-S", str(source), "-B", str(build), *ninja, *OPTIONS, *no_git, *extra]
    for command in (configure, [*cmake, "--build", str(build), "--target", "llama", "--parallel", str(os.cpu_count())]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            output = (done.stdout + done.stderr)[-3000:]
            raise SystemExit(f"the stock build failed, `{' '.join(command[:3])} ...` gave {done.returncode}:\n{output}")


def _uv() -> str:
    uv = os.environ.get("UV") or shutil.which("uv")
    if not uv:
        raise SystemExit("building the stock library needs cmake: `pip install cmake ninja`, or give --stock-lib DIR")
    return uv


def _pristine():
    """patches/pristine.py as a module; its folder must not be on sys.path, for it has a queue.py."""
    spec = importlib.util.spec_from_file_location("pristine", ROOT / "patches" / "pristine.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pristine"] = module
    spec.loader.exec_module(module)
    return module


class Stock:
    """A `stock_worker.py` process: every call is one of its methods by name, arguments and answer as JSON."""

    def __init__(self, lib_dir: Path) -> None:
        environment = {**os.environ, "LLAMA_CPP_LIB_PATH": str(lib_dir)}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("stock_worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self.library = self._call("info")
        if self.library["patched"]:
            self.close()
            raise SystemExit(f"the library in {lib_dir} is a patched one; the comparison needs a stock one")

    def __getattr__(self, name: str):
        return lambda **arguments: self._call(name, **arguments)

    def _call(self, name: str, **arguments) -> dict:
        try:
            self._process.stdin.write(json.dumps({"call": name, **arguments}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._errors.seek(0)
            raise SystemExit(f"the stock worker failed in {name}:\n{self._errors.read()[-3000:]}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def __enter__(self) -> Stock:
        return self

    def __exit__(self, *_exc) -> None:
        self.close()
