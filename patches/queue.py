"""The patch queue: everything lacache changes in llama.cpp, kept as small patches and whole new files.

    python patches/queue.py prepare DIR  # pinned llama.cpp + series + overlay -> DIR, rewriting only files that differ
    python patches/queue.py refresh DIR  # carry edits made by hand in DIR back into *.patch and overlay/
    python patches/queue.py check        # the series applies to the pinned base without fuzz or offset, and is complete
    python patches/queue.py size         # added and removed lines per upstream file

Needs the standard library and git, and pip once, to fetch the pinned base. It knows nothing of what a patch does.
LACACHE_LLAMA_CPP_SOURCE=PATH takes llama.cpp from a local tree or a downloaded sdist instead; PATH is only read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pristine import QueueError, Tree, pristine_tree, read_base, safe, sha256, walk

QUEUE = Path(__file__).resolve().parent
STAMP = ".lacache-queue.json"  # in a prepared tree: the queue it was made from and the hash of every file written
HEADER = ("Subject", "Reason", "Upstream-status")  # lines every patch must carry above its first hunk


def read_series(queue: Path) -> list[str]:
    """Names of the patches in order; blank lines and #-comments are skipped."""
    lines = (line.strip() for line in (queue / "series").read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def read_overlay(queue: Path) -> Tree:
    root = queue / "overlay"
    return {path: (root / path).read_bytes() for path in walk(root)} if root.is_dir() else {}


def sections(patch: bytes) -> tuple[bytes, dict[str, bytes]]:
    """Header and diff per file of one patch. Raises QueueError for anything but edits of existing text files."""
    head, *diffs = re.split(rb"(?m)^(?=diff --git )", patch)
    found: dict[str, bytes] = {}
    for diff in diffs:
        match = re.match(rb"diff --git a/(\S+) b/(\S+)\n", diff)
        if not match or match[1] != match[2] or match[1].decode() in found:
            raise QueueError(f"a diff that is not one edit of one file: {diff.splitlines()[0].decode()}")
        if re.search(rb"(?m)^(new file|deleted file|rename|copy|GIT binary|Binary files)\b", diff.split(b"\n@@")[0]):
            raise QueueError(f"{match[1].decode()}: patches only edit files; new files go into overlay/")
        found[safe(match[1].decode())] = diff
    return head, found


def git(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """git with no user settings and no repository around it, so that it does the same thing everywhere."""
    env = {**os.environ, "GIT_CEILING_DIRECTORIES": str(cwd.parent), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    env = {k: v for k, v in env.items() if k not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")}
    env["GIT_CONFIG_GLOBAL"] = os.devnull
    try:
        return subprocess.run(["git", *args], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise QueueError("git was not found; install it (it applies the patches)") from None


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def apply_series(queue: Path, pristine: Tree, strict: bool = False) -> list[tuple[str, Tree]]:
    """(patch, the files it touches as they are after it) in order. `strict` refuses offsets and stray white space."""
    states = []
    with tempfile.TemporaryDirectory() as tmp:
        work = Path(tmp).resolve() / "work"
        work.mkdir()
        for name in read_series(queue):
            patch = queue / safe(name)
            if not patch.is_file():
                raise QueueError(f"series lists {name}, but there is no such file")
            try:
                paths = list(sections(patch.read_bytes())[1])
            except QueueError as error:
                raise QueueError(f"{name}: {error}") from None
            for path in paths:
                if path not in pristine:
                    raise QueueError(f"{name}: edits {path}, which the base does not have")
                if not (work / path).exists():
                    write(work / path, pristine[path])
            if paths:
                options = [f"--whitespace={'error-all' if strict else 'nowarn'}", str(patch)]
                tried = git("apply", "--check", "--verbose", *options, cwd=work)
                if tried.returncode or (strict and "offset" in tried.stderr):
                    raise QueueError(f"{name} does not apply cleanly to the base:\n{tried.stderr.strip()}")
                git("apply", *options, cwd=work).check_returncode()
            states.append((name, {path: (work / path).read_bytes() for path in paths}))
    return states


def expected_tree(queue: Path, pristine: Tree) -> Tree:
    """What a prepared tree contains."""
    tree = dict(pristine)
    for _, files in apply_series(queue, pristine):
        tree.update(files)
    return tree | read_overlay(queue)


def queue_key(queue: Path, pristine: Tree | None) -> str:
    """Hash of all that decides a prepared tree; `pristine` only where the base is not the pinned one."""
    code = [QUEUE / "queue.py", QUEUE / "pristine.py"]
    inputs = [queue / "BASE", queue / "series", *code, *(queue / name for name in read_series(queue))]
    parts = [(path.name, path.read_bytes()) for path in inputs if path.is_file()] + sorted(read_overlay(queue).items())
    parts += sorted((pristine or {}).items())
    return sha256(json.dumps([(name, sha256(data)) for name, data in parts]).encode())


# --- commands ----------------------------------------------------------------------------------------------------


def read_stamp(dest: Path) -> dict:
    try:
        return json.loads((dest / STAMP).read_text("utf-8"))
    except FileNotFoundError:
        return {}


def write_stamp(dest: Path, key: str | None, files: dict[str, str]) -> None:
    write(dest / (STAMP + ".new"), json.dumps({"key": key, "files": files}).encode())
    os.replace(dest / (STAMP + ".new"), dest / STAMP)


def prepare(queue: Path, dest: Path, force: bool = False) -> list[str]:
    """Makes `dest` the patched tree; returns the paths written or removed. Files that are right keep their mtime.

    Raises QueueError rather than overwrite an edit made by hand in `dest`, unless `force`.
    """
    base, source = read_base(queue), os.environ.get("LACACHE_LLAMA_CPP_SOURCE")
    local = pristine_tree(base, source) if source else None
    key, stamp = queue_key(queue, local), read_stamp(dest)
    recorded: dict[str, str] = stamp.get("files", {})
    if stamp.get("key") == key and not force and all((dest / path).exists() for path in recorded):
        return []  # hand edits stay: they belong to whoever works in the tree, until `refresh`
    if not stamp and not force and dest.is_dir() and any(dest.iterdir()):
        raise QueueError(f"{dest} is not empty and was not made by `queue.py prepare`; give another folder, or --force")
    tree = expected_tree(queue, local if local is not None else pristine_tree(base))
    wanted = {path: sha256(data) for path, data in tree.items()}
    on_disk = {path: sha256((dest / path).read_bytes()) for path in wanted | recorded if (dest / path).is_file()}
    edited = [path for path, sha in recorded.items() if on_disk.get(path, sha) not in (sha, wanted.get(path))]
    if edited and not force:
        raise QueueError(
            f"{dest} has edits made by hand, and the queue has changed since: {', '.join(edited[:5])}. Put the queue "
            f"back and `refresh` to keep them, or drop them with `python patches/queue.py prepare --force {dest}`."
        )
    if not stamp:
        write_stamp(dest, None, {})  # marks the folder as ours, should this be interrupted
    changed = [path for path in wanted if on_disk.get(path) != wanted[path]]
    for path in changed:
        write(dest / safe(path), tree[path])
    gone = [path for path in recorded if path not in wanted and path in on_disk]
    for path in gone:
        (dest / path).unlink()
    write_stamp(dest, key, wanted)
    return changed + gone


def refresh(queue: Path, dest: Path, into: str | None = None) -> list[str]:
    """Carries edits made in the prepared tree `dest` back; returns the names of the queue's files that changed.

    New files become overlay files. An edited upstream file goes into the last patch that touches it; one that no patch
    touches goes into `into`, made if needed. What was not edited keeps every byte. Raises QueueError.
    """
    base, source = read_base(queue), os.environ.get("LACACHE_LLAMA_CPP_SOURCE")
    pristine = pristine_tree(base, source)
    if read_stamp(dest).get("key") != queue_key(queue, pristine if source else None):
        raise QueueError(f"{dest} is not of the queue as it is now: run `python patches/queue.py prepare {dest}`")
    states, overlay = apply_series(queue, pristine), read_overlay(queue)
    patched = {path: name for name, files in states for path in files}  # path -> the last patch that touches it
    now = {path: (dest / path).read_bytes() for path in walk(dest) if path not in (STAMP, STAMP + ".new")}
    missing = [path for path in pristine if path not in now]
    if missing:
        raise QueueError(f"upstream files cannot be removed, put back: {', '.join(missing)}")
    before = dict(pristine)
    for _, files in states:
        before |= files
    edited = [path for path in pristine if now[path] != before[path]]
    homeless = [path for path in edited if path not in patched]
    if homeless and not into:
        raise QueueError(f"no patch touches {', '.join(homeless)}: name one with --into NAME.patch")

    changed: list[str] = []
    for path in sorted(overlay.keys() | now.keys() - pristine.keys()):
        if path not in now:
            (queue / "overlay" / path).unlink()
        elif now[path] != overlay.get(path):
            write(queue / "overlay" / path, now[path])
        else:
            continue
        changed.append(f"overlay/{path}")
    names = read_series(queue)
    if homeless and into not in names:
        write(queue / safe(into), "".join(f"{field}: \n" for field in HEADER).encode() + b"\n")
        with (queue / "series").open("a", encoding="utf-8", newline="\n") as series:
            series.write(f"{into}\n")
        changed.append("series")
    for name in sorted({patched.get(path, into) for path in edited}):
        head, diffs = sections((queue / name).read_bytes())
        for path in (p for p in edited if patched.get(p, into) == name):
            old = pristine[path]  # ... as the patches before this one leave it
            for earlier, files in states:
                if earlier == name:
                    break
                old = files.get(path, old)
            diffs[path] = file_diff(path, old, now[path])
        write(queue / name, head + b"".join(diffs.values()))
        changed.append(name)
    if prepare(queue, dest, force=True):
        raise QueueError("the refreshed queue does not give the edited tree back; see `git diff patches`")
    return changed


def file_diff(path: str, old: bytes, new: bytes) -> bytes:
    """One file's diff as patches carry it: no index line, so the same edit is always the same bytes. b"" if equal."""
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp).resolve()
        write(root / "a" / path, old)
        write(root / "b" / path, new)
        options = ["--no-color", "--no-ext-diff", "--no-renames", "--src-prefix=", "--dst-prefix="]
        out = git("diff", "--no-index", *options, f"a/{path}", f"b/{path}", cwd=root).stdout
    return re.sub(r"(?m)^index .*\n", "", out, count=1).encode()


def check(queue: Path) -> list[str]:
    """What is wrong with the queue, one sentence each; empty when it is sound."""
    wrong: list[str] = []
    names = read_series(queue)
    present = {p.relative_to(queue).as_posix() for p in queue.rglob("*.patch") if "overlay" not in p.parts}
    wrong += [f"series lists {name} more than once" for name in sorted({n for n in names if names.count(n) > 1})]
    wrong += [f"{name} is not in series" for name in sorted(present - set(names))]
    readme = (queue / "README.md").read_text("utf-8") if (queue / "README.md").is_file() else ""
    rows = set(re.findall(r"(?m)^\| *`?([\w./-]+\.patch)\b", readme))
    for name in sorted(present & set(names)):
        head = re.split(r"(?m)^diff --git ", (queue / name).read_text("utf-8"))[0]
        absent = [field for field in HEADER if not re.search(rf"(?m)^{field}:[ \t]*\S", head)]
        wrong += [f"{name}: no '{field}: ...' line in its header" for field in absent]
        if name not in rows:
            wrong.append(f"{name}: no row in README.md")
    wrong += [f"README.md has a row for {name}, which is not in series" for name in sorted(rows - set(names))]
    pristine = pristine_tree(read_base(queue))
    wrong += [f"overlay/{path} exists upstream" for path in read_overlay(queue) if path in pristine]
    try:
        apply_series(queue, pristine, strict=True)
    except QueueError as error:
        wrong.append(str(error))
    return wrong


def size(queue: Path) -> list[tuple[str, int, int]]:
    """(file, lines added, lines removed) for every upstream file that is patched, then for every overlay file."""
    counts: dict[str, list[int]] = {}
    for name in read_series(queue):
        for path, diff in sections((queue / name).read_bytes())[1].items():
            count = counts.setdefault(path, [0, 0])
            body = diff[diff.index(b"\n@@") :]
            count[0] += len(re.findall(rb"(?m)^\+", body))
            count[1] += len(re.findall(rb"(?m)^-(?!- $)", body))  # "-- " ends a mailed patch
    rows = [(path, added, removed) for path, (added, removed) in sorted(counts.items())]
    return rows + [(f"overlay/{path}", data.count(b"\n"), 0) for path, data in sorted(read_overlay(queue).items())]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=Path, default=QUEUE, help="the folder with BASE, series and patches")
    commands = parser.add_subparsers(dest="command", required=True)
    sub = {name: commands.add_parser(name) for name in ("prepare", "refresh", "check", "size")}
    sub["prepare"].add_argument("--force", action="store_true", help="overwrite edits made by hand in DIR")
    sub["refresh"].add_argument("--into", metavar="NAME.patch", help="the patch for files that no patch touches yet")
    for name in ("prepare", "refresh"):
        sub[name].add_argument("dir", type=Path)
    args = parser.parse_args(argv)
    try:
        if args.command == "prepare":
            changed = prepare(args.queue, args.dir, args.force)
            print(f"queue.py: {args.dir} is the patched llama.cpp; {len(changed)} files rewritten")
        elif args.command == "refresh":
            changed = refresh(args.queue, args.dir, args.into)
            print("\n".join(["queue.py: refreshed", *changed]) if changed else "queue.py: nothing to refresh")
        elif args.command == "check":
            wrong = check(args.queue)
            for line in wrong:
                print(f"queue.py: {line}", file=sys.stderr)
            if wrong:
                return 1
            print(f"queue.py: {len(read_series(args.queue))} patches apply cleanly to the pinned base")
        else:
            rows = size(args.queue)
            for path, added, removed in [*rows, ("total", sum(r[1] for r in rows), sum(r[2] for r in rows))]:
                print(f"+{added:<6} -{removed:<6} {path}")
    except (QueueError, OSError) as error:
        print(f"queue.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
