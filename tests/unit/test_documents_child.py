"""The process that reads a document: what it may do, how it is ended, and that the app goes on.

It is tested with the real worker, whose parser is replaced by one that misbehaves.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import psutil
import pytest
from golden.documents.make_samples import samples
from lacache_app.documents import DocumentError, Limits, child, worker
from unit.document_files import read

POSIX = os.name == "posix"
PAGE = "<html><body><p>A page.</p></body></html>"


@pytest.fixture
def misbehave(monkeypatch):
    """misbehave(code): the child runs these lines, with `data` and `limits`, instead of parsing."""

    def replace(code: str) -> None:
        body = "\n".join(f"    {line}" for line in code.splitlines())
        patch = f"import lacache_app.documents.loaders as l\ndef load(data, name, limits):\n{body}\nl.load = load\n"
        monkeypatch.setattr(child, "_MAIN", child._MAIN.replace("worker.main()", f"{patch}worker.main()"))

    return replace


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


def test_a_child_that_hangs_is_ended(tmp_path, misbehave):
    before = children()
    misbehave("import time\nwhile True: time.sleep(1)")
    start = time.monotonic()
    with pytest.raises(DocumentError, match=r"f took longer than 1\.5 s to read and was given up"):
        read(tmp_path, PAGE, Limits(seconds=1.5))
    assert 1.5 <= time.monotonic() - start < 30
    assert children() <= before


def test_a_child_that_hangs_before_it_has_read_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(child, "_MAIN", "import time\nwhile True: time.sleep(1)")
    with pytest.raises(DocumentError, match="took longer than 1 s"):
        read(tmp_path, PAGE + " " * 2_000_000, Limits(seconds=1))


@pytest.mark.skipif(not POSIX, reason="needs POSIX limits")
def test_processor_time_is_limited_in_the_child_itself(tmp_path, misbehave, monkeypatch):
    misbehave("while True: pass")
    monkeypatch.setattr(child, "_wait", lambda process, limits: process.wait(60) and "")
    with pytest.raises(DocumentError, match="took longer than 1 s"):
        read(tmp_path, PAGE, Limits(seconds=1))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
def test_a_child_that_eats_memory(tmp_path, misbehave):
    misbehave("held = []\nwhile True: held.append(bytearray(10_000_000))")
    with pytest.raises(DocumentError, match="f needed more than 500 MiB of memory to read and was given up"):
        read(tmp_path, PAGE, Limits(memory_bytes=500 << 20))


def test_memory_is_watched_from_outside_where_there_is_no_limit(tmp_path, misbehave, monkeypatch):
    monkeypatch.setattr(child, "_HAS_MEMORY_LIMIT", False)
    misbehave("import time\nheld = bytearray(b'x') * 300_000_000\ntime.sleep(600)")
    monkeypatch.setattr(
        child, "_MAIN", child._MAIN.replace("worker.main()", "worker.set_limits = lambda *a: 0\nworker.main()")
    )
    with pytest.raises(DocumentError, match="needed more than 200 MiB of memory"):
        read(tmp_path, PAGE, Limits(memory_bytes=200 << 20))


@pytest.mark.skipif(not POSIX, reason="needs signals")
@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS"])
def test_a_child_that_crashes(tmp_path, misbehave, name):
    misbehave(f"import os, signal\nos.kill(os.getpid(), signal.{name})")
    with pytest.raises(DocumentError, match=rf"f made its reader crash \({name}\): it is damaged"):
        read(tmp_path, PAGE)


@pytest.mark.skipif(not POSIX, reason="needs signals")
def test_a_child_that_the_system_kills(tmp_path, misbehave):
    misbehave("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(DocumentError, match="of memory"):
        read(tmp_path, PAGE)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise KeyError('odd')", r"its reader failed \(KeyError: 'odd'\); save it in another format"),
        ("f = lambda: f()\nf()", "has elements nested too deeply"),
        ("raise MemoryError", "of memory"),
        ("import os\nos._exit(3)", "the process that reads f ended with code 3"),
        ("import os\nos.write(2, b'last words'); os._exit(3)", "ended with code 3: last words"),
    ],
)
def test_a_child_that_fails(tmp_path, misbehave, code, message):
    misbehave(code)
    with pytest.raises(DocumentError, match=message):
        read(tmp_path, PAGE)


def test_a_child_that_cannot_start(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(DocumentError, match="cannot start a process to read f"):
        read(tmp_path, PAGE)


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "open(name + '.out', 'w')",
        "import os\nos.open(name, os.O_RDWR | os.O_CREAT)",
        "import os\nos.remove(name)",
        "import pathlib\npathlib.Path(name).write_text('x')",
    ],
)
def test_a_child_may_not_reach_out(tmp_path, misbehave, code):
    target = tmp_path / "file"
    target.write_text("kept")
    misbehave(f"name = {str(target)!r}\n{code}")
    with pytest.raises(DocumentError, match=r"its reader failed \(PermissionError: reading a document"):
        read(tmp_path, PAGE)
    assert target.read_text() == "kept"
    assert not Path(f"{target}.out").exists()


def test_a_child_sees_no_secrets_and_nothing_of_the_current_folder(tmp_path, misbehave, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bs4.py").write_text("raise SystemExit('imported from the current folder')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert read(tmp_path, PAGE).text == "A page."
    misbehave("import os\nraise ValueError(str('HF_TOKEN' in os.environ))")
    with pytest.raises(DocumentError, match="ValueError: False"):
        read(tmp_path, PAGE)


@pytest.mark.skipif(not POSIX, reason="needs SIGKILL")
def test_a_child_ends_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    (tmp_path / "page").write_text(PAGE)
    hang = "import os, time\nos.write(2, b'%d\\n' % os.getpid())\ntime.sleep(600)"
    script.write_text(
        "import sys\nfrom lacache_app.documents import child, read_document\n"
        f"patch = 'import lacache_app.documents.loaders as l\\ndef load(*a):\\n' + "
        f"''.join('    ' + line + '\\n' for line in {hang!r}.splitlines()) + 'l.load = load\\n'\n"
        "child._MAIN = child._MAIN.replace('worker.main()', patch + 'worker.main()')\n"
        "child.tempfile.TemporaryFile = lambda: open(sys.argv[1], 'w+b')\n"
        f"read_document({str(tmp_path / 'page')!r})\n"
    )
    pid_file = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, str(script), str(pid_file)])
    try:
        wait_until(lambda: pid_file.exists() and pid_file.read_bytes().strip())
        reader = psutil.Process(int(pid_file.read_bytes().split()[0]))
        assert reader.ppid() == parent.pid
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE)


def test_ctrl_c_ends_the_child(tmp_path, misbehave, monkeypatch):
    before = children()
    misbehave("import time\ntime.sleep(600)")

    def interrupted(process, limits):
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(tmp_path, PAGE)
    assert children() <= before


def test_the_app_goes_on_after_each(tmp_path, misbehave):
    threads_before = threading.active_count()
    with pytest.raises(DocumentError):
        read(tmp_path, b"%PDF-1.4 broken")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path, PAGE).text == "A page."
        assert "Fact 1" in read(tmp_path, samples()["report.pdf"]).text
    assert threading.active_count() == threads_before


def test_the_hook_lets_reading_pass():
    worker.refuse_side_effects("open", ("x", "rb", os.O_RDONLY))
    worker.refuse_side_effects("import", ("x",))
    with pytest.raises(PermissionError):
        worker.refuse_side_effects("socket.connect", ())
