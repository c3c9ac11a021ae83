"""The command line on the fake engine: what it prints where, which exit code, and what reaches the engine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from lacache_app import cli, options
from lacache_app.commands import demo

from lacache_gguf.errors import (
    DamagedModel,
    DownloadError,
    MemoryFull,
    ModelNotFound,
    OutOfMemory,
    PolicyError,
    UnsupportedModel,
    UsageError,
)
from lacache_gguf.sampling import Sampling

pytestmark = pytest.mark.usefixtures("model")


def child(*args: str, **more: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=60, **more)  # type: ignore[call-overload]


# ---- help, version, usage --------------------------------------------------------------------------------------------


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from lacache_app.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'numpy', 'llama_cpp', 'rich', 'huggingface_hub', 'jinja2'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    for args in (["--help"], *([command, "--help"] for command in cli.COMMANDS)):
        result = child("-c", code, *args)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("usage: lacache")


def test_version(lacache):
    import lacache_gguf

    assert lacache("--version") == (0, f"lacache-gguf {lacache_gguf.__version__}\n", "")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_examples(lacache, command):
    code, out, _ = lacache(command, "--help")
    assert code == 0
    assert "--verbose" in out
    assert f"lacache {command}" in out or command == "doctor"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "usage: lacache"),
        (("frobnicate",), "frobnicate"),
        (("demo", "--frobnicate"), "--frobnicate"),
        (("demo", "--tok", "5"), "--tok"),
        (("summarize",), "FILE"),
        (("demo", "-c", "many"), "'many' is no number of cells"),
        (("demo", "-c", "-5"), "'-5'"),
        (("demo", "-ctk", "q3_k"), "'q3_k' is none of f32"),
        (("demo", "-fa", "maybe"), "'maybe' is none of on, off, auto"),
        (("demo", "--top-p", "2"), "not a number from 0 to 1"),
        (("demo", "--temp", "nan"), "'nan'"),
        (("demo", "-ngl", "lots"), "'lots' is no number of layers"),
        (("demo", "--policy", "nonsense"), "'nonsense' is unknown; choose one of default, full, sink_window, ladder"),
        (("demo", "--policy", "full", "--span", "3"), "--span 3 does nothing for --policy full"),
        (("demo", "--policy", "sink_window", "--recent", "3"), "--recent 3 does nothing"),
        (("demo", "-c", "512", "--kv-budget", "1GiB"), "both set the KV memory"),
        (("demo", "--kv-budget", "lots", "--span", "3"), "'lots' is not understood"),
        (("demo", "--kv-budget", "1MiB", "--span", "3"), "256 cells"),
        (("summarize", "no-such-file.txt"), "'no-such-file.txt'"),
        (("summarize", "-", "-"), "only once"),
        (("summarize", "page", "-p", " "), "the prompt is empty"),
        (("models",), "ACTION"),
    ],
)
def test_usage_errors_exit_2_in_one_line(fake_engine, lacache, args, text):
    code, out, err = lacache(*args)
    assert code == 2
    assert out == ""
    assert text in err
    assert "Traceback" not in err
    assert fake_engine.opened == []


# ---- settings --------------------------------------------------------------------------------------------------------


def opened(fake_engine, lacache, page, *args: str):
    """The engine that `lacache summarize` opens with these flags."""
    code, _, err = lacache("summarize", page, *args)
    assert code == 0, err
    return fake_engine.opened[-1]


def test_defaults(fake_engine, lacache, page, model):
    engine = opened(fake_engine, lacache, page)
    assert engine.settings == {
        "model": str(model),
        "n_ctx": None,
        "kv_budget": None,
        "policy": None,
        "n_ubatch": 512,
        "type_k": "f16",
        "type_v": "f16",
        "flash_attn": None,
        "n_gpu_layers": -1,
        "n_threads": None,
        "n_threads_batch": None,
    }
    assert engine.sampling == {"temperature": 0.3, "repeat_penalty": 1.1, "seed": 0}
    assert engine.is_closed


def test_flags_reach_the_engine(fake_engine, lacache, page):
    flags = "-c 512 -ngl 7 -fa off -ctk q8_0 -ctv Q4_0 -t 3 -tb 5 -ub 64 --temp 0 --top-k 1 --top-p 0.5 --min-p 0.1"
    more = "--repeat-penalty 1.5 -s 9 -n 20"
    engine = opened(fake_engine, lacache, page, *flags.split(), *more.split())
    expected = {
        "n_ctx": 512,
        "n_gpu_layers": 7,
        "flash_attn": False,
        "type_k": "q8_0",
        "type_v": "q4_0",
        "n_threads": 3,
        "n_threads_batch": 5,
    }
    assert engine.settings.items() >= {**expected, "n_ubatch": 64}.items()
    sampling = {"temperature": 0.0, "top_k": 1, "top_p": 0.5, "min_p": 0.1, "repeat_penalty": 1.5, "seed": 9}
    assert engine.sampling == sampling
    assert engine.n_decoded == 20


def test_environment_is_the_default_and_a_flag_wins(fake_engine, lacache, page, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_CTX_SIZE", "512")
    monkeypatch.setenv("LLAMA_ARG_CACHE_TYPE_K", "q8_0")
    monkeypatch.setenv("LLAMA_ARG_TEMPERATURE", "0.9")
    engine = opened(fake_engine, lacache, page, "-ctk", "f32")
    assert (engine.settings["n_ctx"], engine.settings["type_k"], engine.sampling["temperature"]) == (512, "f32", 0.9)
    engine = opened(fake_engine, lacache, page, "--kv-budget", "64MiB")
    assert (engine.settings["n_ctx"], engine.settings["kv_budget"]) == (None, "64MiB"), "of two ways to say it too"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LLAMA_ARG_CTX_SIZE", "big"),
        ("LLAMA_ARG_FLASH_ATTN", "maybe"),
        ("LLAMA_ARG_OFFLINE", "perhaps"),
        ("LACACHE_SPAN", "0"),
    ],
)
def test_a_bad_environment_variable_is_named(fake_engine, lacache, page, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    code, _, err = lacache("summarize", page)
    assert code == 2
    assert f"environment variable {name}: '{value}'" in err


def test_ctx_size_0_is_the_trained_context(fake_engine, lacache, page):
    assert opened(fake_engine, lacache, page, "-c", "0").settings["n_ctx"] == 8192


def test_seed_minus_1_is_a_new_one_each_time(fake_engine, lacache, page):
    seeds = {opened(fake_engine, lacache, page, "-s", "-1").sampling["seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_policy_flags(fake_engine, lacache, page):
    from lacache_gguf.policies import Full, KeyDiff, Ladder, ScoredLadder, SinkWindow, default_policy

    def policy(*args: str):
        return opened(fake_engine, lacache, page, *args).settings["policy"]

    assert policy("--policy", "full", "-c", "4096") == Full()
    assert policy("--policy", "sink-window", "--sink", "8") == SinkWindow(n_sink=8)
    assert policy("--policy", "keydiff", "--heads", "layer", "--recent", "64") == KeyDiff(n_recent=64, heads="layer")
    assert policy("--policy", "scored_ladder", "--score", "attention") == ScoredLadder(score="attention")
    assert policy("--policy", "ladder") == Ladder(span=15, overlap=0, n_recent=512), "half of 1,024 cells"
    assert policy("--span", "10", "--overlap", "2") == Ladder(span=10, overlap=2, n_recent=512)
    assert policy("--recent", "100", "-c", "512") == replace(default_policy(30, 512), n_recent=100)
    assert policy("--policy", "default", "--sink", "9") == replace(default_policy(30, 1024), n_sink=9)
    assert policy("--policy", "default") is None
    assert policy("--score", "attention") == ScoredLadder(score="attention")
    assert policy("--overlap", "1", "--kv-budget", "45MiB") == Ladder(span=15, overlap=1, n_recent=1024), "2,048 cells"
    assert policy("--overlap", "1", "--kv-budget", "4096") == Ladder(span=15, overlap=1, n_recent=2048)


def test_every_registered_policy_can_be_chosen(fake_engine, lacache, page):
    from lacache_gguf.policies import POLICIES

    for name, policy in POLICIES.items():
        assert type(opened(fake_engine, lacache, page, "--policy", name, "-c", "4096").settings["policy"]) is policy


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (PolicyError, 2),
        (ModelNotFound, 3),
        (OutOfMemory, 4),
        (DamagedModel, 5),
        (UnsupportedModel, 6),
        (MemoryFull, 7),
        (DownloadError, 8),
        (MemoryError, 4),
        (PermissionError, 1),
        (RuntimeError, 70),
        (KeyboardInterrupt, 130),
    ],
)
def test_exit_codes(lacache, page, monkeypatch, error, code):
    def fail(*_args):
        raise error("the value 7 is wrong; give 8")

    monkeypatch.setattr(options, "open_engine", fail)
    got, out, err = lacache("summarize", page)
    assert (got, out) == (code, "")
    assert "Traceback" not in err
    if error not in (MemoryError, KeyboardInterrupt):
        assert "the value 7 is wrong; give 8" in err
    assert err.count("\n") == 1


def test_verbose_shows_the_traceback(lacache, page, monkeypatch):
    def fail(*_args):
        raise RuntimeError("a bug")

    monkeypatch.setattr(options, "open_engine", fail)
    code, _, err = lacache("summarize", page, "--verbose")
    assert code == 70
    assert "Traceback" in err


def test_a_model_that_is_not_there_exits_3_and_a_damaged_one_5(lacache, page, tmp_path):
    assert lacache("summarize", page, "-m", "no.gguf")[0] == 3
    (tmp_path / "text.gguf").write_text("not a model")
    code, _, err = lacache("summarize", page, "-m", str(tmp_path / "text.gguf"))
    assert code == 5
    assert "a text file" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGPIPE there")
def test_a_closed_pipe_is_quiet():
    command = f"{sys.executable} -m lacache_app.cli summarize --help | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):  # whether the pipe is closed in time is a race; none of its outcomes is noisy
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        assert result.stderr == ""
        assert result.returncode in (0, 141)


def test_module_can_be_run(model):
    result = child("-m", "lacache_app.cli", "models", "path", str(model))
    assert result.stdout == f"{model}\n"


def test_the_defaults_in_the_help_are_the_defaults():
    from lacache_app.commands import chat, summarize

    settings = {"-n": summarize.N_PREDICT, "--temp": summarize.SAMPLING["temperature"]}
    settings |= {"--repeat-penalty": summarize.SAMPLING["repeat_penalty"], "--seed": summarize.SAMPLING["seed"]}
    shown = "defaults here: " + " ".join(f"{flag} {value}" for flag, value in settings.items())
    assert shown in summarize.EXAMPLES
    assert shown in demo.EXAMPLES

    defaults = Sampling()
    names = {"temp": "temperature", "top-k": "top_k", "top-p": "top_p", "min-p": "min_p"}
    shown = " ".join(f"--{flag} {getattr(defaults, name)}" for flag, name in names.items())
    assert f"defaults here: {shown} --seed -1" in chat.EXAMPLES
