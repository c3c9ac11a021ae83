"""What the documents say about names, commands, codes and pictures is compared with the code they speak of."""

from __future__ import annotations

import re
import shlex
import string
from pathlib import Path

import pytest
from lacache_app.cli import COMMANDS, build_parser

import lacache_gguf
from lacache_gguf import errors
from lacache_gguf.memory import Memory
from lacache_gguf.policies import POLICIES, Ladder

ROOT = Path(__file__).resolve().parents[2]
PATCHES = ROOT / "patches"
FOLDERS = ("app", "benchmarks", "docs", "lacache_gguf", "models", "patches", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
JOINERS = str.maketrans("", "", "-_.")


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced blocks of one language ("" = none named)."""
    return [body for name, body in re.findall(r"(?ms)^ *```(\w*)\n(.*?)^ *```$", text) if name == language]


def heading_anchors(text: str) -> set[str]:
    """The anchors that headings get where Markdown is shown: lower case, words joined by hyphens."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def rows(text: str, first: str) -> list[str]:
    """First cells, without backticks, of the table rows whose first cell matches the pattern."""
    return re.findall(rf"(?m)^\| `?({first})`? \|", text)


# ---- every document ------------------------------------------------------------------------------------------------


def test_the_documents_are_found():
    names = {path.relative_to(ROOT).as_posix() for path in DOCUMENTS}
    assert {"README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/how-it-works.md", "patches/README.md"} <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(path):
    text = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if anchor:
            assert anchor in heading_anchors(file.read_text("utf-8")), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_machine_path_and_no_registry_host(path):
    text = path.read_text("utf-8")
    hosts = ("pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "debian" + ".org")
    assert not [host for host in hosts if host in text]
    assert not re.findall(r"(?<![\w.~])/(?:home|root|work|Users|tmp|mnt|opt|srv)/\S*", text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_command_line_is_understood(path):
    parser = build_parser()
    for block in blocks(path.read_text("utf-8"), "sh"):
        for line in re.findall(r"(?m)^ *(?:uv run )?lacache (.+)$", block):
            words = shlex.split(line, comments=True)
            words = words[: words.index("<")] if "<" in words else words
            try:
                args = parser.parse_args(words)
            except SystemExit:
                pytest.fail(f"{path.name}: lacache {line}")
            assert args.command == words[0]
            assert getattr(args, "policy", None) is None or args.policy in POLICIES


# ---- README --------------------------------------------------------------------------------------------------------


def test_readme_begins_with_the_two_commands():
    first = [line.split("#")[0].strip() for line in blocks(read("README.md"), "sh")[0].splitlines()]
    assert first == ["uv run lacache demo", "uv run pytest"]


def test_ci_runs_what_the_documents_name():
    if not (ROOT / ".ci").exists():
        pytest.skip("a source distribution has no .ci")
    lines = [line.strip() for line in read(".ci/run").splitlines()]
    for command, document in (
        ("uv run pytest", "README.md"),
        ("uv run ruff check", "CONTRIBUTING.md"),
        ("uv run python patches/queue.py check", "CONTRIBUTING.md"),
    ):
        assert command in lines
        assert command in read(document)


def test_readme_names_every_command_and_policy():
    text = read("README.md")
    for command in COMMANDS:
        assert re.search(rf"(?m)^(?:uv run )?lacache {command}\b", text), command
    for policy in POLICIES:
        assert f"`{policy}`" in text, policy
        assert f"`{policy}`" in read("docs/policies.md"), policy


def test_readme_lists_folders_and_files_that_are_there():
    (tree,) = (block for block in blocks(read("README.md"), "") if block.startswith("lacache_gguf/"))
    parent = ROOT
    for line in tree.splitlines():
        folder = parent if line.startswith(" ") else ROOT
        path = folder / line.split()[0]
        assert path.exists(), line
        parent = path if folder == ROOT else parent


@pytest.mark.native
@pytest.mark.model
def test_readme_python_example_runs(capsys):
    (example,) = blocks(read("README.md"), "python")
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    out = capsys.readouterr().out
    n_seen, n_kept, n_compactions = map(int, re.findall(r"(\d+) seen, (\d+) kept, (\d+) compactions", out)[0])
    assert n_seen > 1024 >= n_kept
    assert n_compactions > 0


def test_changelog_knows_this_version():
    assert re.search(rf"(?m)^## \[{re.escape(lacache_gguf.__version__)}\] - \d{{4}}-\d\d-\d\d$", read("CHANGELOG.md"))


# ---- patches/README.md ---------------------------------------------------------------------------------------------


def test_every_patch_and_overlay_file_has_its_row():
    text = read("patches/README.md")
    series = [line for line in (PATCHES / "series").read_text("utf-8").split() if not line.startswith("#")]
    assert rows(text, r"[\w.-]+\.patch") == series
    overlay = sorted(path.relative_to(PATCHES).as_posix() for path in (PATCHES / "overlay").rglob("*.*"))
    assert sorted(rows(text, r"overlay/[\w./-]+")) == overlay


def test_rows_of_patches_repeat_their_headers():
    text = read("patches/README.md")
    for name in rows(text, r"[\w.-]+\.patch"):
        patch = (PATCHES / name).read_text("utf-8")
        (row,) = re.findall(rf"(?m)^\| `{re.escape(name)}` \|.*$", text)
        plain = row.replace("`", "")
        for field in ("Reason", "Upstream-status"):
            assert re.search(rf"(?m)^{field}: (.+)$", patch)[1] in plain, f"{field} of {name}"
        for file in re.findall(r"(?m)^diff --git a/(\S+)", patch):
            assert file in plain, f"{name} edits {file}"


# ---- docs/how-it-works.md ------------------------------------------------------------------------------------------


def test_status_table_is_that_of_the_header():
    header = (PATCHES / "overlay/include/llama-lacache.h").read_text("utf-8")
    declared = re.findall(r"(LLAMA_COMPACT_\w+)\s*=\s*(-?\d+),", header)
    table = re.findall(r"(?m)^\| (-?\d+) \| `(LLAMA_COMPACT_\w+)` \|", read("docs/how-it-works.md"))
    assert [(name, number) for number, name in table] == declared


def test_exit_code_table_is_that_of_the_errors():
    table = {
        name: int(code)
        for code, cell in re.findall(r"(?m)^\| (\d+) \| (`[^|]+`) \|", read("docs/how-it-works.md"))
        for name in re.findall(r"`([A-Z][a-z]\w+)`", cell)
    }
    assert table.pop("NativeError") == errors.LacacheError.exit_code
    public = {name: cls.exit_code for name, cls in vars(errors).items() if hasattr(cls, "exit_code")}
    assert table == public


def test_every_reason_for_a_refusal_is_explained():
    text = read("docs/how-it-works.md")
    sources = PATCHES / "overlay/src"
    reasons = re.findall(r'res\.reason = "([^"]+)"', (sources / "llama-lacache-parts.cpp").read_text("utf-8"))
    reasons += re.findall(r'return "(it[^"]+)"', (sources / "llama-kv-compact-reason.cpp").read_text("utf-8"))
    assert len(reasons) > 8
    assert sorted(rows(text, r"it[^|]+")) == sorted(reasons)


def test_every_refused_architecture_is_named():
    source = (PATCHES / "overlay/src/llama-kv-compact-reason.cpp").read_text("utf-8")
    body = re.search(r"(?s)static bool arch_k_is_not_plain.*?return true;", source)[0]
    refused = {name.lower().translate(JOINERS) for name in re.findall(r"LLM_ARCH_(\w+)", body)}
    (paragraph,) = re.findall(r'(?ms)^"Not a plain rotation".*?\n\n', read("docs/how-it-works.md"))
    named = {name.translate(JOINERS) for name in re.findall(r"`([^`]+)`", paragraph)}
    assert named == refused | {"step35"}  # Step 3.5 is refused by upstream's get_can_shift()


def test_the_pictures_of_the_ladder_are_what_the_policy_does():
    text = read("docs/how-it-works.md")
    assert "`Ladder(span=2, overlap=0, n_sink=2, n_recent=2)`" in " ".join(text.split())
    tokens = string.ascii_lowercase + string.ascii_uppercase + string.digits
    plans, columns = [], []
    memory = Memory(Ladder(span=2, overlap=0, n_sink=2, n_recent=2), 4, 16, plans.append)

    def shown() -> list[str]:
        return ["".join(tokens[i] for i in row) for row in memory.held]

    for n_seen in range(1, 63):
        before = shown()
        if memory.make_room(1, n_block=4) and len(plans) == 1:
            for il, row in enumerate(plans[0].tolist()):
                mask = "".join("#" if i in row else "." for i in range(16))
                turn = " ".join(str(i - cell) for i, cell in enumerate(row))
                line = f"layer {il} {before[il]} {mask} {shown()[il]} {turn}"
                assert line in re.sub(" +", " ", text), line
        memory.advance(1)
        if n_seen in (20, 28, 40, 62):
            columns.append(shown())
    for il in range(4):
        assert f"layer {il}   " + "   ".join(column[il] for column in columns) in text
