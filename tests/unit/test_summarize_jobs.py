"""Jobs: what is written when, that it survives a kill, and that nothing is left behind that nobody asked for."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
import time
from itertools import islice, pairwise, takewhile

import pytest
from lacache_app.documents import Document, Part
from lacache_app.summarize import Jobs, Note, Place, Result, Stage, Task, job, resume, summarize

from lacache_gguf.errors import UsageError
from lacache_gguf.events import Progress, Step

TEXT = "".join(f"Sentence {i} of a long document. " for i in range(200))


@pytest.fixture
def jobs(tmp_path) -> Jobs:
    return Jobs(tmp_path)


@pytest.fixture
def at_once(monkeypatch) -> None:
    """Checkpoints after every event."""
    monkeypatch.setattr(job, "FIRST_S", 0.0)
    monkeypatch.setattr(job, "SHARE", 0.0)


def document() -> Document:
    half = len(TEXT) // 2
    parts = (Part("p. 1", "One", 0, half), Part("p. 2", "", half, len(TEXT)))
    return Document("book.pdf", TEXT, "pdf", parts, "a note")


def cut(stream, n_events: int) -> list:
    """The first events; then the process is as good as dead: nothing behind it runs."""
    return list(islice(stream, n_events))


def until(stream, condition) -> list:
    return list(takewhile(lambda event: not condition(event), stream))


def die(running: Jobs) -> Jobs:
    """What another process sees after this one was killed: the files as they are, and an owner that is no process."""
    copy = running.folder.parent / secrets.token_hex(4)
    shutil.copytree(running.folder, copy / "jobs")
    for path in (copy / "jobs").iterdir():
        state = json.loads((path / "job.json").read_text())
        state["owner"] = [2**22 + 1, 0.0]
        (path / "job.json").write_text(json.dumps(state))
    return Jobs(copy)


@pytest.mark.parametrize("mode", ["whole", "parts"])
@pytest.mark.usefixtures("at_once")
def test_a_killed_summary_goes_on_and_ends_the_same(fake_engine, jobs, mode):
    task = Task(mode)
    expected = list(summarize(fake_engine(n_ctx=2048), document(), task, seed=3))[-1]
    n_events = len(list(summarize(fake_engine(n_ctx=2048), document(), task, seed=3)))
    for n in range(3, n_events - 1, max(1, n_events // 6)):
        running = summarize(fake_engine(n_ctx=2048), document(), task, job=jobs.create(document(), task), seed=3)
        cut(running, n)
        killed = die(jobs)
        running.close()
        shutil.rmtree(jobs.folder)
        (found,) = killed.unfinished()
        engine = fake_engine(n_ctx=2048)
        assert list(resume(engine, found))[-1] == expected
        assert engine.sampling == {"seed": 3}
        assert list(killed.folder.iterdir()) == [], "a finished job leaves nothing"


@pytest.mark.usefixtures("at_once")
def test_what_was_read_is_not_read_again(fake_engine, jobs):
    running = summarize(fake_engine(), document(), job=jobs.create(document(), Task()))
    done = [event for event in cut(running, 40) if isinstance(event, Progress)][-1].n_done
    killed = die(jobs)
    running.close()
    first = next(event for event in resume(fake_engine(), killed.unfinished()[0]) if isinstance(event, Progress))
    assert 0 < done - 2 * 128 <= first.n_before <= done


@pytest.mark.usefixtures("at_once")
def test_finished_parts_are_not_written_again(fake_engine, jobs):
    task = Task("parts")
    running = summarize(fake_engine(n_ctx=2048), document(), task, job=jobs.create(document(), task))
    until(running, lambda event: isinstance(event, Stage) and event.index == 3)
    killed = die(jobs)
    running.close()
    events = list(resume(fake_engine(n_ctx=2048), killed.unfinished()[0]))
    assert next(event for event in events if isinstance(event, Stage)).index in (2, 3)
    assert isinstance(events[-1], Result)


def test_nothing_is_written_for_work_of_a_moment(fake_engine, jobs):
    assert isinstance(list(summarize(fake_engine(), document(), job=jobs.create(document(), Task())))[-1], Result)
    assert not jobs.folder.exists()


def test_stopping_writes_at_once_and_frees_the_job(fake_engine, jobs):
    running = summarize(fake_engine(), document(), job=jobs.create(document(), Task()))
    n_done = [event.n_done for event in cut(running, 30) if isinstance(event, Progress)][-1]
    running.close()
    (found,) = jobs.unfinished()
    assert found.name == "book.pdf"
    assert 0 < found.fraction < 1
    first = next(event for event in resume(fake_engine(), found) if isinstance(event, Progress))
    assert first.n_before == n_done, "exactly where it stopped"


def test_checkpoints_take_less_than_two_percent(fake_engine, jobs, monkeypatch):
    """By the clock that the job sees: a save of 1 s is not repeated before 50 s of work."""
    now = [0.0]
    monkeypatch.setattr(job.time, "perf_counter", lambda: now[0])
    engine = fake_engine()
    saved_at: list[float] = []
    save = engine.save

    def slow_save(*args):
        save(*args)
        saved_at.append(now[0])
        now[0] += 1.0

    engine.save = slow_save
    for event in summarize(engine, document(), job=jobs.create(document(), Task())):
        if isinstance(event, Progress):
            now[0] += 7.0
    assert len(saved_at) >= 3
    assert saved_at[0] >= job.FIRST_S
    assert all(later - earlier >= 50 for earlier, later in pairwise(saved_at))


@pytest.mark.usefixtures("at_once")
def test_files_are_for_the_owner_only(fake_engine, jobs):
    running = summarize(fake_engine(), document(), job=jobs.create(document(), Task()))
    cut(running, 20)
    (path,) = jobs.folder.iterdir()
    assert {file.name for file in path.iterdir()} == {"job.json", "document.txt", "memory.kv"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in path.iterdir())
    assert (path / "document.txt").read_text() == TEXT


@pytest.mark.usefixtures("at_once")
def test_a_job_is_worked_on_by_one(fake_engine, jobs):
    running = summarize(fake_engine(), document(), job=jobs.create(document(), Task()))
    cut(running, 20)
    (path,) = jobs.folder.iterdir()
    assert jobs.unfinished() == []
    with pytest.raises(UsageError, match="stop it first"):
        jobs.delete(path.name)
    with pytest.raises(UsageError, match=r"book\.pdf is being summarized"):
        next(resume(fake_engine(), jobs.get(path.name)))
    running.close()
    assert [found.id for found in jobs.unfinished()] == [path.name]
    jobs.delete(path.name)
    jobs.delete(path.name)
    assert list(jobs.folder.iterdir()) == []


def test_a_living_process_is_seen(jobs):
    import psutil

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = [child.pid, psutil.Process(child.pid).create_time()]
    assert job._is_alive(owner)
    assert not job._is_alive([owner[0], owner[1] - 100]), "another process that got its number"
    child.kill()
    child.communicate()
    assert not job._is_alive(owner)


@pytest.mark.usefixtures("at_once")
def test_another_memory_reads_again_and_says_so(fake_engine, jobs):
    running = summarize(fake_engine(n_ctx=1024), document(), job=jobs.create(document(), Task()))
    cut(running, 30)
    found = die(jobs).unfinished()[0]
    running.close()
    assert found.engine["n_ctx"] == 1024
    events = list(resume(fake_engine(n_ctx=2048), found))
    (note,) = [event for event in events if isinstance(event, Note)]
    assert "from the beginning" in note.text
    assert "1024 cells" in note.text
    assert events[-1].summary == list(summarize(fake_engine(n_ctx=2048), document()))[-1].summary


@pytest.mark.usefixtures("at_once")
def test_a_smaller_memory_cuts_the_parts_anew_as_long_as_none_is_written(fake_engine, jobs):
    task = Task("parts")
    running = summarize(fake_engine(n_ctx=4096), document(), task, job=jobs.create(document(), task))
    cut(running, 3)
    found = die(jobs).unfinished()[0]
    running.close()
    assert found.nodes
    assert not found.texts
    engine = fake_engine(n_ctx=1024)
    assert len([event for event in resume(engine, found) if isinstance(event, Note)]) <= 1
    assert engine.stats.n_compactions == 0, "nothing is thinned while a part is read"
    assert found.engine["n_ctx"] == 1024


@pytest.mark.parametrize("name", ["memory.kv", "job.json", "document.txt"])
@pytest.mark.usefixtures("at_once")
def test_damaged_files(fake_engine, jobs, name):
    running = summarize(fake_engine(), document(), job=jobs.create(document(), Task()))
    cut(running, 30)
    jobs = die(jobs)
    running.close()
    (path,) = jobs.folder.iterdir()
    (path / name).write_bytes((path / name).read_bytes()[:-40])
    if name == "job.json":
        assert jobs.unfinished() == []
        with pytest.raises(UsageError, match="no summary"):
            jobs.get(path.name)
    elif name == "document.txt":
        with pytest.raises(UsageError, match="cannot be read back"):
            next(resume(fake_engine(), jobs.unfinished()[0]))
    else:
        events = list(resume(fake_engine(), jobs.unfinished()[0]))
        assert any(isinstance(event, Note) for event in events)
        assert isinstance(events[-1], Result)


@pytest.mark.usefixtures("at_once")
def test_a_full_disk_ends_the_saving_and_not_the_summary(fake_engine, jobs):
    engine = fake_engine()

    def full(*_args):
        raise OSError(28, "No space left on device")

    engine.save = full
    events = list(summarize(engine, document(), job=jobs.create(document(), Task())))
    (note,) = [event for event in events if isinstance(event, Note)]
    assert "No space left" in note.text
    assert isinstance(events[-1], Result)


def test_kept_jobs_can_be_shown_again_and_old_ones_go(fake_engine, jobs, monkeypatch):
    for _ in range(3):
        kept = jobs.create(document(), Task("parts"), keep=True)
        result = list(summarize(fake_engine(n_ctx=2048), document(), Task("parts"), job=kept))[-1]
    assert jobs.unfinished() == []
    found = jobs.finished()
    assert [item.result for item in found] == [result] * 3
    assert all(isinstance(place, Place) for place in found[0].result.places)
    assert all((item.path / "memory.kv").exists() for item in found)
    jobs.prune()
    assert [(item.path / "memory.kv").exists() for item in jobs.finished()] == [True, False, False]
    monkeypatch.setattr("lacache_app.summarize.jobs.N_FINISHED_MAX", 2)
    jobs.prune()
    assert len(jobs.finished()) == 2
    monkeypatch.setattr("lacache_app.summarize.jobs.AGE_MAX_S", -1)
    jobs.prune()
    assert jobs.finished() == []


@pytest.mark.usefixtures("at_once")
def test_memories_have_a_limit_together(fake_engine, jobs, monkeypatch):
    for _ in range(3):
        running = summarize(fake_engine(), document(), job=jobs.create(document(), Task()))
        cut(running, 20)
        running.close()
    size = (jobs.unfinished()[0].path / "memory.kv").stat().st_size
    monkeypatch.setattr("lacache_app.summarize.jobs.MEMORY_MAX_BYTES", 2.5 * size)
    jobs.prune()
    found = jobs.unfinished()
    assert [(item.path / "memory.kv").exists() for item in found] == [True, True, False]
    assert isinstance(list(resume(fake_engine(), found[2]))[-1], Result), "it is read again"


def test_remains_of_a_crash_are_removed(jobs):
    folder = jobs.folder / "0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "document.txt").write_text("half a jo")
    jobs.prune()
    assert folder.exists(), "it may be being made right now"
    old = time.time() - 7200
    os.utime(folder, (old, old))
    jobs.prune()
    assert not folder.exists()


@pytest.mark.parametrize("job_id", ["", "..", "../../etc", "0123456789ABCDEF", "0123456789abcdef/..", "x" * 16])
def test_ids_are_ids(jobs, job_id):
    for call in (jobs.get, jobs.delete):
        with pytest.raises(UsageError, match="no id"):
            call(job_id)


def test_a_link_is_no_job(jobs, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    jobs.folder.mkdir()
    (jobs.folder / "0123456789abcdef").symlink_to(tmp_path / "elsewhere")
    jobs.prune()
    assert jobs.unfinished() == []
    assert (tmp_path / "elsewhere").exists()


def test_surrogates_survive(fake_engine, jobs):
    odd = Document("odd", "a \udcff b " * 300)
    running = summarize(fake_engine(), "x", job=jobs.create(odd, Task()))
    cut(running, 2)
    running.close()
    (found,) = jobs.unfinished()
    assert found.document.text == odd.text


def test_steps_are_what_they_were(fake_engine, jobs):
    """A job changes nothing about the events."""
    with_job = list(summarize(fake_engine(), document(), job=jobs.create(document(), Task())))
    assert with_job == list(summarize(fake_engine(), document()))
    assert sum(isinstance(event, Step) for event in with_job) > 10
