"""Dependencies point one way: app -> engine -> memory -> policies, engine -> native -> libllama.

Reads `import` statements with `ast`, wherever they stand in a file: nothing is executed and a lazy import counts too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"lacache_gguf": ROOT / "lacache_gguf", "lacache_app": ROOT / "app"}

# What the part on the left must never import, directly. Prefixes: "lacache_gguf.engine" covers its submodules.
UI = ("lacache_app", "gradio", "rich", "argparse", "click")
NOBODY = ("app", "benchmarks", "tests", "patches", "models")  # folders of the repository, not in a wheel
FORBIDDEN = {
    "lacache_gguf": (*UI, *NOBODY),
    "lacache_gguf.native": ("lacache_gguf.engine", "lacache_gguf.memory", "lacache_gguf.policies"),
    "lacache_gguf.memory": ("lacache_gguf.engine", "ctypes", "llama_cpp"),
    "lacache_app": ("ctypes", "llama_cpp", *NOBODY),
}
# What only this part of the app may import: everything else works without a browser, and is tested without one.
ONLY = {
    "gradio": ("lacache_app.ui",),
    "starlette": ("lacache_app.ui",),
    "fastapi": ("lacache_app.ui",),
    "uvicorn": ("lacache_app.ui",),
    "lacache_app.ui": ("lacache_app.ui", "lacache_app.commands.app"),
}
# Policies are the other way round: nothing but this.
POLICIES_MAY = {"numpy", "lacache_gguf.errors", "lacache_gguf.policies"} | set(sys.stdlib_module_names) - {"ctypes"}


def modules() -> dict[str, str]:
    """Import name -> source text of every module of both packages."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *(part for part in parts if part != "__init__")))
            found[name] = path.read_text("utf-8")
    return found


def imports(name: str, source: str, is_package: bool, top_level: bool = False) -> Iterator[str]:
    """Absolute names that a module imports; `from a import b` gives "a.b". `top_level` leaves out lazy imports."""
    tree = ast.parse(source)
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = name.split(".")[: None if is_package else -1]
            start = base[: len(base) - node.level + 1] if node.level else []
            prefix = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def allowed_in_policies(target: str) -> bool:
    return any(under(target, may) for may in POLICIES_MAY)


def violations(sources: dict[str, str]) -> list[str]:
    """Sentences about every import that goes the wrong way."""
    wrong = []
    for name, source in sources.items():
        for target in imports(name, source, is_package(name, sources)):
            bans = [ban for part, banned in FORBIDDEN.items() if under(name, part) for ban in banned]
            bans += [part for part, users in ONLY.items() if not any(under(name, user) for user in users)]
            is_policy = under(name, "lacache_gguf.policies")
            if any(under(target, ban) for ban in bans) or (is_policy and not allowed_in_policies(target)):
                wrong.append(f"{name} must not import {target}")
    return wrong


def is_package(name: str, sources: dict[str, str]) -> bool:
    return name in PACKAGES or any(other.startswith(name + ".") for other in sources)


def cycles(sources: dict[str, str]) -> list[str]:
    """Chains of modules that import each other while they load."""
    graph: dict[str, set[str]] = {}
    for name, source in sources.items():
        targets = list(imports(name, source, is_package(name, sources), top_level=True))
        # of "a.b": b is a module, or a name in module a
        targets += [target.rpartition(".")[0] for target in targets if target not in sources]
        # The packages themselves only re-export, so every module would be in a "cycle" with them.
        graph[name] = {target for target in targets if target in sources and target not in (*PACKAGES, name)}
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            found.append(" -> ".join((*chain[chain.index(name) :], name)))
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, (*chain, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    return found


def test_dependencies_point_one_way() -> None:
    sources = modules()
    assert {"lacache_gguf.errors", "lacache_gguf.policies.plan"} <= sources.keys()  # it did look somewhere
    assert violations(sources) == []


def test_no_import_cycles() -> None:
    assert cycles(modules()) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lacache_gguf.engine", "from lacache_app.chat import Chat"),
        ("lacache_gguf.engine", "def f():\n    import gradio as gr"),
        ("lacache_gguf.memory", "from .engine import Engine"),
        ("lacache_gguf.native", "from lacache_gguf import memory"),
        ("lacache_gguf.policies.ladder", "from ..memory import Memory"),
        ("lacache_gguf.policies.ladder", "import ctypes"),
        ("lacache_gguf.policies.ladder", "import rich.progress"),
        ("lacache_app.chat", "import llama_cpp.llama_cpp as lib"),
        ("lacache_app.cli", "from app import chat"),
        ("lacache_app.chat", "import gradio as gr"),
        ("lacache_app.store", "from lacache_app.ui.context import Context"),
        ("lacache_app.commands.app", "import gradio"),
    ],
)
def test_a_wrong_import_is_seen(name: str, source: str) -> None:
    assert len(violations({name: source})) == 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("lacache_gguf.engine", "from lacache_gguf.memory import Memory\nfrom . import native"),
        ("lacache_gguf.policies.ladder", "import numpy as np\nimport math\nfrom .plan import Plan"),
        ("lacache_gguf.policies", "from .ladder import Ladder"),
        ("lacache_app.cli", "import argparse\nfrom lacache_gguf import Engine\nfrom lacache_app.chat import Chat"),
        ("lacache_app.ui.chat_tab", "import gradio as gr\nfrom lacache_app.ui.context import Context"),
        ("lacache_app.commands.app", "def run():\n    from lacache_app.ui import server"),
    ],
)
def test_a_right_import_passes(name: str, source: str) -> None:
    assert violations({"lacache_gguf.policies.plan": "", name: source}) == []


def test_a_cycle_is_seen() -> None:
    sources = {"lacache_gguf.a": "from lacache_gguf.b import x", "lacache_gguf.b": "from . import a"}
    assert cycles(sources) == ["lacache_gguf.a -> lacache_gguf.b -> lacache_gguf.a"]
    sources["lacache_gguf.b"] = "def f():\n    from . import a"  # only when called: allowed
    assert cycles(sources) == []
