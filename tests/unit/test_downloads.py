"""downloads: pause, resume, restart, cancel and everything that goes wrong, against a small hub on loopback."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple

import pytest
from lacache_app.download_status import Speed, Status
from lacache_app.downloads import Downloads
from loopback_hub import LoopbackHub, gguf_bytes

from lacache_gguf import hub, hub_fetch
from lacache_gguf.catalog import resolve
from lacache_gguf.errors import DownloadError, UsageError
from lacache_gguf.hub_names import parse_ref

REPO, FILE = "user/repo-GGUF", "model.Q4_K_M.gguf"
NAME = f"{REPO}:Q4_K_M"
SHARDS = [f"big-Q8_0-{i:05d}-of-00002.gguf" for i in (1, 2)]
DATA = gguf_bytes(pad=3_000_000)
FILES = {FILE: DATA, SHARDS[0]: gguf_bytes(pad=1_500_000), SHARDS[1]: gguf_bytes(pad=1_400_000)}
HELD_AT = 1_000_000


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub on loopback that huggingface_hub talks to, and an empty cache."""
    from huggingface_hub import constants

    with LoopbackHub({REPO: FILES}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 60)  # a held download is not taken for a broken one
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield server


@pytest.fixture
def downloads(server, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    downloads = Downloads(folder)
    yield downloads
    server.release()
    downloads.close()


def until(downloads: Downloads, name: str, *states: str, n_done: int = 0) -> Status:
    """The status once it is in one of the states and has n_done bytes."""

    def is_there() -> bool:
        status = downloads.status(name)
        return status is not None and status.state in states and status.n_done >= n_done

    assert downloads.wait(is_there, 20), downloads.all()
    return downloads.status(name)


def paused_at(downloads: Downloads, server: LoopbackHub, n_bytes: int) -> Status:
    """Start, and pause when about n_bytes are here."""
    server.hold_at[FILE] = n_bytes
    downloads.start(NAME)
    until(downloads, NAME, "running", n_done=n_bytes)
    downloads.pause(NAME)
    assert downloads.status(NAME).state == "pausing"
    server.release()
    return until(downloads, NAME, "paused")


def parts(tmp_path) -> list:
    return list((tmp_path / "hub").rglob("*.incomplete"))


# ---- the way it should go --------------------------------------------------------------------------------------------


def test_a_download_ends_in_the_standard_cache(downloads, server, tmp_path):
    assert downloads.start(f" hf.co/{REPO}:q4_k_m ") == f"{REPO}:q4_k_m"
    status = until(downloads, f"{REPO}:q4_k_m", "done", "failed")
    assert (status.name, status.state, status.error) == (NAME, "done", ""), "its full name"
    assert (status.n_done, status.n_total, status.share) == (len(DATA), len(DATA), 1.0)
    assert status.text == "2.9 MiB, complete and verified"
    model = resolve(NAME)
    assert str(model.path) == status.path
    assert model.path.read_bytes() == DATA
    assert (tmp_path / "hub" / "models--user--repo-GGUF" / "refs" / "main").read_text() == model.path.parent.name
    assert downloads.licence(NAME) == "apache-2.0"
    assert Downloads(tmp_path / "data").licence(NAME) == "apache-2.0", "remembered"
    assert parts(tmp_path) == []


def test_pause_and_resume(downloads, server, tmp_path):
    status = paused_at(downloads, server, HELD_AT)
    assert HELD_AT <= status.n_done < len(DATA)
    assert status.text.startswith("paused at ")
    assert [part.stat().st_size for part in parts(tmp_path)] == [status.n_done], "what was shown is what is there"
    downloads.resume(NAME)
    assert until(downloads, NAME, "done", "failed").state == "done"
    assert server.starts == [(FILE, 0), (FILE, status.n_done)], "only the rest was asked for"
    assert resolve(NAME).path.read_bytes() == DATA


def test_a_restart_goes_on_where_the_last_run_ended(downloads, server, tmp_path):
    n_done = paused_at(downloads, server, HELD_AT).n_done
    again = Downloads(tmp_path / "data")
    assert [(s.name, s.state, s.n_done, s.n_total) for s in again.all()] == [(NAME, "paused", n_done, len(DATA))]
    again.resume(NAME)
    assert until(again, NAME, "done", "failed").state == "done"
    assert server.starts[-1] == (FILE, n_done)
    assert Downloads(tmp_path / "data").all() == (), "nothing is left to do"


def test_a_killed_run_is_paused_in_the_next(downloads, server, tmp_path):
    server.hold_at[FILE] = HELD_AT
    downloads.start(NAME)
    until(downloads, NAME, "running", n_done=HELD_AT)  # and now it is gone, without a word
    [status] = Downloads(tmp_path / "data").all()
    assert (status.state, status.n_done, status.n_total) == ("paused", HELD_AT, len(DATA)), "counted from the file"


def test_shards_count_as_one_download(downloads, server):
    name = downloads.start(f"{REPO}:Q8_0")
    status = until(downloads, name, "done", "failed")
    assert status.n_total == sum(len(FILES[shard]) for shard in SHARDS)
    assert [path.name for path in sorted(resolve(name).path.parent.iterdir())] == SHARDS


def test_what_is_cached_is_not_fetched_again(downloads, server):
    until(downloads, downloads.start(NAME), "done")
    downloads.start(NAME)
    assert until(downloads, NAME, "done", "failed").state == "done"
    assert server.starts == [(FILE, 0)]


def test_cancel_leaves_nothing(downloads, server, tmp_path):
    paused_at(downloads, server, HELD_AT)
    downloads.cancel(NAME)
    assert downloads.status(NAME) is None
    assert parts(tmp_path) == []
    assert Downloads(tmp_path / "data").all() == ()


def test_cancel_of_a_running_download(downloads, server, tmp_path):
    server.hold_at[FILE] = HELD_AT
    downloads.start(NAME)
    until(downloads, NAME, "running", n_done=HELD_AT)
    downloads.cancel(NAME)
    server.release()
    assert downloads.wait(lambda: downloads.status(NAME) is None, 30)
    assert parts(tmp_path) == []
    assert hub.find_cached(parse_ref(NAME)) is None


def test_a_second_click_starts_no_second_download(downloads, server):
    server.hold_at[FILE] = HELD_AT
    assert downloads.start(NAME) == downloads.start(NAME)
    until(downloads, NAME, "running", n_done=HELD_AT)
    downloads.start(NAME)
    server.release()
    until(downloads, NAME, "done")
    assert server.starts == [(FILE, 0)]


def test_one_model_is_one_download_however_it_is_called(downloads, server):
    n_done = paused_at(downloads, server, HELD_AT).n_done
    until(downloads, downloads.start(REPO), "done")
    assert [status.name for status in downloads.all()] == [NAME]
    assert server.starts[-1] == (FILE, n_done), "it went on with what was there"


def test_two_programs_do_not_write_the_same_file(downloads, server, tmp_path):
    server.hold_at[FILE] = HELD_AT
    downloads.start(NAME)
    until(downloads, NAME, "running", n_done=HELD_AT)
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = Downloads(other_folder)
    other.start(NAME)
    assert "being downloaded by another program" in until(other, NAME, "failed", "done").error
    server.release()
    assert until(downloads, NAME, "done", "failed").state == "done"


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "model", "https://example.org/model.gguf", "/etc/passwd", "../x", "a/b/c"])
def test_only_names_on_the_hub(downloads, server, text):
    with pytest.raises(UsageError, match="other addresses are not downloaded"):
        downloads.start(text)
    assert server.requests == []


def test_wrong_content_is_thrown_away(downloads, server, tmp_path):
    server.wrong_content.add(FILE)
    status = until(downloads, downloads.start(NAME), "failed", "done")
    assert "damaged on the way" in status.error
    assert "SHA-256" in status.error
    assert status.n_done == 0
    assert hub.find_cached(parse_ref(NAME)) is None
    assert parts(tmp_path) == []
    server.wrong_content.clear()
    downloads.resume(NAME)
    assert until(downloads, NAME, "done", "failed").state == "done", "the second try begins anew and succeeds"


def test_a_broken_connection_is_made_again(downloads, server):
    server.cut_once = {FILE}
    assert until(downloads, downloads.start(NAME), "done", "failed").state == "done"
    assert server.starts == [(FILE, 0), (FILE, len(DATA) // 2)]


def test_a_hub_that_ignores_ranges_sends_it_all_again(downloads, server):
    paused_at(downloads, server, HELD_AT)
    server.ignores_ranges = True
    downloads.resume(NAME)
    assert until(downloads, NAME, "done", "failed").state == "done"
    assert resolve(NAME).path.read_bytes() == DATA


def test_a_part_that_is_longer_than_the_file_is_thrown_away(downloads, server, tmp_path):
    n_done = paused_at(downloads, server, HELD_AT).n_done
    [part] = parts(tmp_path)
    with part.open("ab") as file:
        file.truncate(len(DATA) + 5)
    assert n_done < len(DATA)
    downloads.resume(NAME)
    assert until(downloads, NAME, "done", "failed").state == "done"
    assert server.starts[-1] == (FILE, 0)


def test_a_damaged_part_is_found_by_the_checksum(downloads, server, tmp_path):
    paused_at(downloads, server, HELD_AT)
    [part] = parts(tmp_path)
    with part.open("r+b") as file:
        file.seek(500_000)
        file.write(b"other bytes")
    downloads.resume(NAME)
    assert "SHA-256" in until(downloads, NAME, "failed", "done").error


def test_gated_not_found_and_offline(downloads, server, monkeypatch):
    from huggingface_hub import constants

    server.gated[REPO] = "hf_right"
    assert "accept its terms" in until(downloads, downloads.start(NAME), "failed", "done").error
    missing = downloads.start("user/nothing:Q4_0")
    assert "no model repository 'user/nothing'" in until(downloads, missing, "failed", "done").error
    unknown = downloads.start(f"{REPO}:Q2_K")
    assert "it has: Q4_K_M, Q8_0" in until(downloads, unknown, "failed", "done").error
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    downloads.start(f"{REPO}:Q8_0")
    assert "network is switched off" in until(downloads, f"{REPO}:Q8_0", "failed", "done").error


def test_a_hub_that_is_not_there(downloads, server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    status = until(downloads, downloads.start(NAME), "failed", "done")
    assert "could not download user/repo-GGUF from http://127.0.0.1:9" in status.error
    assert "check the network" in status.error


def test_no_room_is_seen_before_the_download(downloads, server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**7, 10**7 - 1000, 1000))
    assert "needs 3 MiB, but only 0 MiB are free" in until(downloads, downloads.start(NAME), "failed", "done").error
    assert server.starts == []


def test_what_is_there_already_needs_no_room(downloads, server, monkeypatch):
    status = paused_at(downloads, server, HELD_AT)
    usage = namedtuple("usage", "total used free")
    n_free = len(DATA) - status.n_done + 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**8, 10**8 - n_free, n_free))
    downloads.resume(NAME)
    assert until(downloads, NAME, "done", "failed").state == "done"


def test_a_full_disk_on_the_way(downloads, server, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub_fetch, "_append", full)
    assert "the disk is full" in until(downloads, downloads.start(NAME), "failed", "done").error


def test_a_connection_that_never_brings_anything_is_given_up(server, monkeypatch):
    import httpx2

    n_calls = []

    def broken(*_args):
        n_calls.append(1)
        raise httpx2.ReadTimeout("nothing came")

    monkeypatch.setattr(hub_fetch, "_append", broken)
    waits: list[float] = []
    with pytest.raises(DownloadError, match=r"nothing came.*check the network"):
        hub.download(parse_ref(NAME), wait=waits.append)
    assert len(n_calls) == 5
    assert waits == sorted(waits)
    assert len(waits) == 4


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"unfinished": [{"name": "a/b"}], "licences": {}}', '{"licences": 3}']
)
def test_a_damaged_list_of_downloads_is_left_aside(tmp_path, text, caplog):
    (tmp_path / "downloads.json").write_text(text)
    assert Downloads(tmp_path).all() == ()
    assert "is not used" in caplog.text


def test_names_in_the_list_cannot_leave_the_cache(tmp_path, server):
    entry = {"name": NAME, "error": "", "n_done": 0, "n_total": 9, "licence": None, "etags": ["../../../../x", "ab12"]}
    (tmp_path / "downloads.json").write_text(json.dumps({"unfinished": [entry], "licences": {}}))
    victim = tmp_path / "x.lacache.incomplete"
    victim.write_text("keep")
    downloads = Downloads(tmp_path)
    assert [status.name for status in downloads.all()] == [NAME]
    downloads.cancel(NAME)
    assert victim.read_text() == "keep"


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status(NAME), "asking the hub"),
        (Status(NAME, "running", 2**29, 2**31, 2**20), "512 MiB of 2 GiB, 1 MiB/s, 26 min left"),
        (Status(NAME, "running", 0, 2**31), "0 KiB of 2 GiB"),
        (Status(NAME, "checking", 2**31, 2**31), "2 GiB of 2 GiB, comparing the checksum"),
        (Status(NAME, "paused", 2**30, 2**31), "paused at 1 GiB of 2 GiB"),
        (Status(NAME, "failed", error="no"), "no"),
    ],
)
def test_status_in_words(status, text):
    assert status.text == text


def test_speed_looks_at_the_last_seconds():
    now = [0.0]
    speed = Speed(lambda: now[0])
    assert speed.at(0) == 0
    for second in range(1, 21):
        now[0] = float(second)
        n = 1000 * min(second, 10) + 50 * max(0, second - 10)
        last = speed.at(n)
    assert last == pytest.approx(50), "the fast beginning is forgotten"
