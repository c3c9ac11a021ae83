"""`lacache app` before it serves: passwords, hosts, ports, whose settings win."""

from __future__ import annotations

import argparse
import dataclasses
import os
import socket

import pytest
from lacache_app import addresses, cli
from lacache_app.commands import app
from lacache_app.host import EngineSettings
from lacache_app.settings import save_settings
from lacache_app.terminal import Terminal

from lacache_gguf.errors import UsageError
from lacache_gguf.policies import SinkWindow


@pytest.fixture
def lacache(capsys, tmp_path):
    """lacache(*args) -> (exit code, stderr) of `lacache app`, with a data folder of its own."""

    def run(*args: str) -> tuple[int, str]:
        code = cli.main(["app", "--no-browser", "--data-dir", str(tmp_path / "data"), *args])
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com"])
def test_a_bind_for_others_needs_a_password(lacache, host):
    code, err = lacache("--host", host)
    assert code == 2
    assert "--auth USER:PASSWORD" in err
    assert host in err
    assert "Traceback" not in err


@pytest.mark.parametrize("auth", ["me", "me:", ":secret", ":"])
def test_half_a_password_is_refused(lacache, auth):
    code, err = lacache("--auth", auth)
    assert code == 2
    assert "USER:PASSWORD" in err
    assert auth not in err.replace("USER:PASSWORD", "") or auth in ("me", ":")  # what was typed is not repeated


def test_passwords():
    assert app.parse_auth(None) is None
    assert app.parse_auth("") is None
    assert app.parse_auth("me:a:b") == ("me", "a:b")
    app.check_host("127.0.0.1", None)
    app.check_host("localhost", None)
    app.check_host("0.0.0.0", ("me", "secret"))
    with pytest.raises(UsageError):
        app.check_host("0.0.0.0", None)


def test_a_taken_port_is_named(lacache):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, err = lacache("--port", str(port))
    assert code == 2
    assert f"port {port}" in err
    assert "--port" in err
    assert lacache("--port", "70000")[0] == 2


def test_without_a_port_the_next_free_one_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            addresses.bind("127.0.0.1", port)
        with addresses.bind("127.0.0.1", port, 20) as sock:
            assert port < sock.getsockname()[1] < port + 20


def test_the_address_to_open():
    assert addresses.url("127.0.0.1", 7860) == "http://127.0.0.1:7860/"
    assert addresses.url("::1", 7860) == "http://[::1]:7860/"
    assert addresses.url("0.0.0.0", 80) == "http://127.0.0.1:80/"


def chosen(folder, *flags: str) -> EngineSettings:
    parser = argparse.ArgumentParser()
    app.configure(parser)
    return app.choose_settings(parser.parse_args(flags), folder, Terminal())


@pytest.mark.model
def test_flags_win_over_what_was_stored_and_that_over_defaults(tmp_path, monkeypatch):
    assert chosen(tmp_path) == EngineSettings()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    stored = EngineSettings(kv_budget="64MiB", type_k="q8_0")
    save_settings(tmp_path, stored)
    assert chosen(tmp_path) == stored
    flags = chosen(tmp_path, "-c", "512", "--policy", "sink_window")
    assert (flags.n_ctx, flags.kv_budget, flags.policy) == (512, None, SinkWindow())
    assert chosen(tmp_path, "-t", "3") == dataclasses.replace(stored, n_threads=3), "the model and the memory stay"
    assert "HF_HUB_OFFLINE" not in os.environ
    assert chosen(tmp_path, "--offline") == stored
    assert os.environ["HF_HUB_OFFLINE"] == "1", "the models page must not use the network either"
    assert chosen(tmp_path, "-ngl", "7") == dataclasses.replace(stored, n_gpu_layers=7)
    monkeypatch.setenv("LACACHE_KV_BUDGET", "32MiB")
    assert chosen(tmp_path).kv_budget == "32MiB"
