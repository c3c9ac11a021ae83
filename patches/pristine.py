"""llama.cpp as it was before our patches: from the pinned sdist, fetched once and verified, or from a local tree.

Needs the standard library, and pip for the one download. It knows nothing of patches; `queue.py` beside it does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

# Most of llama.cpp by weight, and no part of any build: vocabularies, documents, pictures, CI files.
SKIP = re.compile(r"^(\.git$|\.[^/]*/|(models|docs|media|benches|build[^/]*)/)")
Tree = dict[str, bytes]  # path in the llama.cpp tree, with "/" -> content


class QueueError(Exception):
    """Something a user can put right; the text says what, with the value, and how."""


@dataclass(frozen=True)
class Base:
    """patches/BASE: which sdist carries the pinned llama.cpp, and where in it."""

    name: str
    version: str
    sha256: str
    tree: str
    commit: str

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.tar.gz"


def read_base(queue: Path) -> Base:
    lines = (queue / "BASE").read_text("utf-8").splitlines()
    return Base(**dict(line.split("=", 1) for line in lines if line.strip() and not line.startswith("#")))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def cache_dir() -> Path:
    """Per-user cache of downloads: $XDG_CACHE_HOME first, then the platform's own place."""
    home = Path.home()
    platform = {"win32": Path(os.environ.get("LOCALAPPDATA", home)), "darwin": home / "Library" / "Caches"}
    return Path(os.environ.get("XDG_CACHE_HOME") or platform.get(sys.platform, home / ".cache")) / "lacache-gguf"


def fetch_sdist(base: Base) -> Path:
    """The pinned sdist in the cache, downloaded if it is missing or damaged. Raises QueueError."""
    target = cache_dir() / base.filename
    if target.is_file() and sha256(target.read_bytes()) == base.sha256:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as tmp:  # on the same file system, so os.replace is atomic
        requirement = Path(tmp) / "requirement.txt"
        requirement.write_text(f"{base.name}=={base.version} --hash=sha256:{base.sha256}\n", "utf-8")
        command = [*pip_command(), "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        if importlib.util.find_spec("scikit_build_core"):  # pip asks the sdist's build backend for its metadata
            command.append("--no-build-isolation")
        print(f"downloading {base.filename} (77 MB, once)", flush=True)
        command += ["--dest", tmp, "--requirement", str(requirement)]
        # cwd: `python -m pip` looks for modules there first, and patches/ has a queue.py
        done = subprocess.run(command, cwd=tmp, env=registry_env(), capture_output=True, text=True, check=False)
        got = Path(tmp) / base.filename
        if done.returncode or not got.is_file() or sha256(got.read_bytes()) != base.sha256:
            tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
            raise QueueError(
                f"could not download {base.filename}, the pinned llama.cpp source:\n{tail}\n"
                f"Offline? Put that file (sha256 {base.sha256}) into {target.parent}, or set LACACHE_LLAMA_CPP_SOURCE "
                f"to it or to a llama.cpp tree of commit {base.commit[:12]}."
            )
        os.replace(got, target)
    return target


def pip_command() -> list[str]:
    """pip of this interpreter, or the one that uv can run. Raises QueueError if there is neither."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv:
        return [uv, "tool", "run", "pip"]
    raise QueueError(f"{sys.executable} has no pip to download llama.cpp with: run `{sys.executable} -m ensurepip`")


def registry_env() -> dict[str, str]:
    """The environment for pip, following uv's choice of package index where pip was given none."""
    index = os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL")
    return {**({"PIP_INDEX_URL": index} if index else {}), **os.environ}


def pristine_tree(base: Base, source: str | None = None) -> Tree:
    """llama.cpp without our changes: from `source` (a tree or an sdist) or from the pinned sdist. Raises QueueError."""
    if source and (Path(source) / "include" / "llama.h").is_file():
        root = Path(source).resolve()
        return {path: (root / path).read_bytes() for path in walk(root) if not SKIP.match(path)}
    if source and not Path(source).is_file():
        raise QueueError(f"LACACHE_LLAMA_CPP_SOURCE={source} is neither a llama.cpp tree nor {base.filename}")
    sdist = Path(source) if source else fetch_sdist(base)
    if sha256(sdist.read_bytes()) != base.sha256:
        raise QueueError(f"{sdist} is not the pinned {base.filename}: its sha256 is not {base.sha256}")
    prefix = f"{base.filename.removesuffix('.tar.gz')}/{base.tree}/"
    tree: Tree = {}
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = member.name.removeprefix(prefix)
            if member.isfile() and path != member.name and not SKIP.match(safe(path)):
                tree[path] = archive.extractfile(member).read()
    return tree


def safe(path: str) -> str:
    """`path`, refused if it could leave the directory that it is written under. Raises QueueError."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or ":" in path:
        raise QueueError(f"unsafe path {path!r}")
    return path


def walk(root: Path) -> list[str]:
    """Relative paths of the files under `root`, sorted; git's own folders and editors' left-overs are not ours."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")]
        found += [Path(folder, name).relative_to(root).as_posix() for name in files]
    return sorted(path for path in found if not path.endswith((".orig", ".rej", "~", ".swp")) and path != ".git")
