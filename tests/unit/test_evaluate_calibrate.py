"""`lacache calibrate`: the search keeps what is better on text it did not see, within its time, and it is used then."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from lacache_app import calibrated
from lacache_app.calibrated import Calibration, find_calibration, forget_calibrations, save_calibration
from lacache_app.evaluate import search as searching
from lacache_app.evaluate.bench import Bench
from lacache_app.evaluate.runner import Stopped
from lacache_app.evaluate.search import Clock, search
from lacache_app.memory_spec import DEFAULT, parse_size
from lacache_app.paths import data_dir

from lacache_gguf import catalog
from lacache_gguf.checkpoint import fingerprint
from lacache_gguf.errors import UsageError
from lacache_gguf.kv_budget import KvGeometry, KvLayer
from lacache_gguf.policies import Ladder, Salience, SinkWindow, default_policy

GEOMETRY = KvGeometry((KvLayer(3, 64, 64),) * 30, n_layer=30, n_ctx_train=8192)
FOUND = Calibration("ladder:recent=25%", 512, 0.02, 0.01, 0.03, "mails.txt", 9000, "2026-01-31", "0.1.0")


@pytest.fixture
def bench(fake_engine, model) -> Any:
    """The stand-in: the more different tokens a memory holds, the surer it is of "a"."""
    with Bench({"model": str(model)}, model, fake_engine) as found:
        yield found


def text(n: int, letter: str = "a") -> np.ndarray:
    return np.full(n, ord(letter), dtype=np.int32)


def silent(_n: int, _engine: Any) -> None:
    pass


# ---- the search ------------------------------------------------------------------------------------------------------


def test_what_holds_more_is_found_and_checked_on_other_text(bench) -> None:
    notes: list[str] = []
    candidates = ("sink_window", "salience:recent=8", "ladder:recent=75%")
    found = search(
        bench, text(6000), parse_size("256"), Clock(600), silent, candidates=candidates, note=notes.append
    )  # fmt: skip
    assert found.winner == "salience:recent=8"
    assert found.is_better
    assert found.recalled == (0, 0, 10), "the stand-in finds nothing"
    assert found.held_out.value < 0
    assert found.table[0][0] == found.winner
    assert [n for _, n, _ in found.table] == sorted((n for _, n, _ in found.table), reverse=True)
    assert found.n_tokens_held_out > 0
    assert "round 1: 3 read" in notes[0]


def test_the_default_stays_if_nothing_is_better(bench) -> None:
    found = search(bench, text(6000), parse_size("256"), Clock(600), silent, candidates=("sink_window",))
    assert found.winner == DEFAULT
    assert not found.is_better
    assert math.isnan(found.held_out.value)


def test_no_luck_is_kept(bench) -> None:
    """Text on which what a memory holds does not matter: the winner of the search is not better on the rest."""
    found = search(bench, text(6000, "z"), parse_size("256"), Clock(600), silent, candidates=("sink_window", "tova"))
    assert found.is_better == (found.held_out.high < 0)


def test_what_reads_better_and_finds_less_is_not_kept(bench, fake_engine, monkeypatch) -> None:
    def generate(self, tokens, *, max_tokens, **_settings):
        """Knows the pass key if the policy is the default's: it stands in the text, whatever the memory holds."""
        if self.policy.n_recent is None:
            text = bytes(token for token in tokens if token < 256).decode()
            self.reply = text[text.index("The pass key is ") :]
        yield from self._write(max_tokens)

    monkeypatch.setattr(fake_engine, "generate", generate)
    found = search(bench, text(6000), parse_size("256"), Clock(600), silent, candidates=("salience:recent=8",))
    assert found.reads_better
    assert not found.is_better
    n_winner, n_default, n_prompts = found.recalled
    assert (n_winner, n_default) == (0, n_prompts)
    assert n_prompts == 10


def test_search_and_check_share_no_token() -> None:
    for n in (1100, 2000, 6000, 100_000):
        for affordable in (0, 20_000, 10**9):
            seen, unseen = searching._stretches(np.arange(n), 256, affordable, 18)
            used = np.concatenate([*seen, *unseen])
            assert len(np.unique(used)) == len(used)
            assert max(part.max() for part in seen) < min(part.min() for part in unseen)
            assert len({len(part) for part in (*seen, *unseen)}) == 1
            assert (len(seen[0]) - 1) % 256 == 0


def test_time_is_kept(bench) -> None:
    """A clock that an engine's token moves: no more is read than there was time for, and the check has its share."""
    seconds = 0.0

    def tick(n: int, _engine: Any) -> None:
        nonlocal seconds
        seconds += n / 100

    clock = Clock(100, now=lambda: seconds)
    names = tuple(f"ladder:recent={n}" for n in range(30, 100, 5))
    found = search(bench, text(60_000), parse_size("256"), clock, tick, candidates=names)
    assert seconds <= 100
    assert found.n_tokens_held_out > 0 or found.winner == DEFAULT
    assert 0 < len(found.table) < len(names)


def test_too_little_text_or_time(bench) -> None:
    with pytest.raises(UsageError, match="give a longer text or a smaller memory"):
        search(bench, text(900), parse_size("256"), Clock(600), silent)
    seconds = iter(range(0, 10**6, 1000))
    with pytest.raises(UsageError, match="no time to try anything"):
        search(bench, text(6000), parse_size("256"), Clock(10, now=lambda: next(seconds)), silent)


def test_impossible_candidates_are_left_out(bench) -> None:
    notes: list[str] = []
    names = ("ladder:span=77", "ladder:recent=none", "salience")
    found = search(bench, text(6000), parse_size("256"), Clock(600), silent, candidates=names, note=notes.append)
    assert "left out: ladder:span=77" in notes[0]
    assert [name for name, _, _ in found.table] == ["ladder:recent=none"]  # the third is the default


def test_all_candidates_are_understood(bench) -> None:
    notes: list[str] = []
    trials = searching._trials(bench, parse_size("1024"), 16, ("f16", "f16"), searching.CANDIDATES, notes.append)
    assert notes == []
    assert len(trials) >= len(searching.CANDIDATES) - 1


def test_a_stop_ends_it(bench) -> None:
    def stop(_n: int, _engine: Any) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        search(bench, text(6000), parse_size("256"), Clock(600), stop)


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_findings_are_of_a_model_and_a_budget(tmp_path) -> None:
    save_calibration(tmp_path, "m1", FOUND)
    other = Calibration("tova", 2048, 0.1, 0.05, 0.2, "t", 1, "2026-01-31", "0.1.0")
    save_calibration(tmp_path, "m1", other)
    assert find_calibration(tmp_path, "m1", 512) == FOUND
    assert find_calibration(tmp_path, "m1", 256) == find_calibration(tmp_path, "m1", 1000) == FOUND
    assert find_calibration(tmp_path, "m1", 1100) == other
    assert find_calibration(tmp_path, "m1", 255) is None
    assert find_calibration(tmp_path, "m2", 512) is None
    again = Calibration("h2o", 512, 0.1, 0.05, 0.2, "t", 1, "2026-02-01", "0.1.0")
    save_calibration(tmp_path, "m1", again)
    assert find_calibration(tmp_path, "m1", 512) == again
    assert forget_calibrations(tmp_path, "m1") == 2
    assert forget_calibrations(tmp_path, "m1") == 0
    assert find_calibration(tmp_path, "m1", 512) is None


def test_what_makes_no_sense_stops_nobody(tmp_path, model, caplog) -> None:
    from lacache_app.settings import save_value

    for stored in ([], {"m1": 3}, {"m1": [{"memory": 1}]}, {"m1": [{**FOUND.__dict__, "n_ctx": "many"}]}):
        save_value(tmp_path, "calibrated", stored)
        assert find_calibration(tmp_path, "m1", 512) is None
    unknown = Calibration("staircase", 512, 0.1, 0.05, 0.2, "t", 1, "2026-01-31", "0.1.0")
    save_calibration(data_dir(), fingerprint(model), unknown)
    assert calibrated.calibrated_policy(model, lambda: (GEOMETRY, 512)) is None
    assert "'staircase' is unknown" in caplog.text


def test_the_command_finds_keeps_and_forgets(fake_engine, model, lacache, tmp_path) -> None:
    novel = tmp_path / "novel.txt"
    novel.write_text("a" * 6000, encoding="utf-8")
    args = ("calibrate", "--text", novel, "-c", 256, "--minutes", 5)
    memories = ("--memory", "salience:recent=8", "--memory", "sink_window")
    code, out, err = lacache(*args, *memories, "--dry-run")
    assert code == 0, err
    assert "salience:recent=8, loss less the default's on" in out
    assert find_calibration(data_dir(), fingerprint(model), 256) is None
    code, out, _ = lacache(*args, *memories)
    assert code == 0
    assert "it finds 0 of 10 pass keys in texts twice its size, the default 0" in out
    assert "kept: used for fake with 128 to 512 cells" in out
    found = find_calibration(data_dir(), fingerprint(model), 256)
    assert (found.memory, found.n_ctx, found.text) == ("salience:recent=8", 256, "novel.txt")
    assert 0 < found.gain_low <= found.gain <= found.gain_high
    assert calibrated.calibrated_policy(model, lambda: (GEOMETRY, 256))[0] == Salience(n_recent=8)
    code, out, _ = lacache(*args, "--memory", "sink_window")
    assert code == 0
    assert "it stays" in out
    code, _, err = lacache("calibrate", "--forget")
    assert (code, "1 findings dropped" in err) == (0, True)
    assert calibrated.calibrated_policy(model, lambda: (GEOMETRY, 256)) is None


def test_the_catalog_knows_findings_too_and_the_users_own_come_first(monkeypatch, tmp_path, model) -> None:
    card = next(iter(catalog.catalog().values()))
    shipped = dataclasses.replace(FOUND, memory="salience:pos=2048", n_ctx=1024)
    known = dataclasses.replace(card, fingerprint=fingerprint(model), calibrated=(dataclasses.asdict(shipped),))
    monkeypatch.setattr(catalog, "catalog", lambda: {known.id: known})
    assert find_calibration(tmp_path, fingerprint(model), 700) == shipped
    assert find_calibration(tmp_path, fingerprint(model), 511) is None
    assert find_calibration(tmp_path, "another model", 1024) is None
    policy, sentence = calibrated.calibrated_policy(model, lambda: (GEOMETRY, 1024))
    assert policy == Salience(n_pos=2048)
    assert "as calibrated on 2026-01-31" in sentence
    save_calibration(tmp_path, fingerprint(model), FOUND)
    assert find_calibration(tmp_path, fingerprint(model), 700) == FOUND
    assert find_calibration(tmp_path, fingerprint(model), 1100) == shipped, "the user's own is of another budget"


# ---- and used --------------------------------------------------------------------------------------------------------


def test_chat_and_summarize_use_it_and_say_so(fake_engine, model, lacache, monkeypatch) -> None:
    import io
    from types import SimpleNamespace

    save_calibration(data_dir(), fingerprint(model), FOUND)
    for args, policy, is_said in (
        (("chat", "-c", 512), Ladder(span=15, n_recent=128), True),
        (("summarize", "-", "-c", 1024), Ladder(span=15, n_recent=256), True),
        (("chat", "-c", 512, "--policy", "ladder"), Ladder(span=15, n_recent=256), False),
        (("chat", "-c", 512, "--recent", 100), dataclasses.replace(default_policy(30, 512), n_recent=100), False),
        (("chat", "-c", 2048), None, False),
    ):
        stdin = SimpleNamespace(buffer=io.BytesIO(b"hello"), isatty=lambda: False)
        monkeypatch.setattr("sys.stdin", stdin)
        code, _, err = lacache(*args)
        assert code == 0, err
        assert fake_engine.opened[-1].settings["policy"] == policy, args
        assert ("as calibrated on 2026-01-31 (loss 0.020 lower" in err) == is_said, args


def test_a_calibration_that_cannot_be_used_stops_nobody(fake_engine, model, lacache, monkeypatch, caplog) -> None:
    import io
    from types import SimpleNamespace

    hard = Calibration("ladder:recent=95%", 512, 0.02, 0.01, 0.03, "t", 1, "2026-01-31", "0.1.0")
    save_calibration(data_dir(), fingerprint(model), hard)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"hello"), isatty=lambda: False))
    code, _, _ = lacache("chat", "-c", 512, "-ctk", "q4_0")
    assert code == 0
    assert fake_engine.opened[-1].settings["policy"] is None
    assert "is not used" in caplog.text


def test_a_resumed_summary_has_all_settings_of_its_policy() -> None:
    from argparse import ArgumentParser
    from types import SimpleNamespace

    from lacache_app import memory_flags
    from lacache_app.commands import summarize

    from lacache_gguf.policies import ScoredLadder

    policy = {"name": "scored_ladder", "n_sink": 4, "n_recent": 99, "n_src": 4, "n_dst": 2, "score": "attention"}
    job = SimpleNamespace(engine={"model": "m", "n_ctx": 512, "type_k": "f16", "type_v": "f16", "policy": policy})
    parser = ArgumentParser()
    summarize.configure(parser)
    args = parser.parse_args(["--resume", "1"])
    summarize._engine_of(job, args)
    assert memory_flags.policy_of(args, None) == ScoredLadder(n_recent=99, n_src=4, n_dst=2, score="attention")
    args = parser.parse_args(["--resume", "1", "--policy", "sink_window"])
    summarize._engine_of(job, args)
    assert memory_flags.policy_of(args, None).name == "sink_window"


def test_the_app_starts_with_it(fake_engine, model, capsys) -> None:
    from argparse import ArgumentParser

    from lacache_app.commands.app import choose_settings, configure
    from lacache_app.terminal import Terminal

    save_calibration(data_dir(), fingerprint(model), FOUND)
    parser = ArgumentParser()
    configure(parser)
    settings = choose_settings(parser.parse_args(["-c", "512"]), data_dir(), Terminal())
    assert settings.policy is None, "the page shows the best choice, and it is looked for at every load"
    assert "as calibrated on 2026-01-31" in capsys.readouterr().err
    settings.open()
    assert fake_engine.opened[-1].settings["policy"] == Ladder(15, n_recent=128)
    dataclasses.replace(settings, n_ctx=4096).open()
    assert fake_engine.opened[-1].settings["policy"] is None, "what was found holds for half to twice its cells"
    dataclasses.replace(settings, policy=SinkWindow()).open()
    assert fake_engine.opened[-1].settings["policy"] == SinkWindow()
    dataclasses.replace(settings, model="nobody/has-this:Q4_0").open()  # the engine says why not
    assert fake_engine.opened[-1].settings["policy"] is None


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (("-c", "256,512"), "one at a time"),
        (("--minutes", "0"), "'0' is not a number from 0.1"),
        (("--text", "nowhere.txt"), "no file 'nowhere.txt'"),
    ],
)
def test_usage_errors(fake_engine, model, lacache, args, error) -> None:
    code, out, err = lacache("calibrate", *args)
    assert (code, out) == (2, "")
    assert error in err
