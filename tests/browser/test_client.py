"""Programs use the app through gradio_client: the example of docs/app.md is run as it stands there."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from browser.helpers import ask

pytestmark = pytest.mark.browser
DOCS = Path(__file__).resolve().parents[2] / "docs" / "app.md"


@pytest.fixture
def client_of(monkeypatch):
    """client_of(server, **options) -> gradio_client.Client, closed at the end."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    from gradio_client import Client

    clients: list[Client] = []

    def make(server, **options):
        clients.append(Client(server.url, verbose=False, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_the_documented_example_runs(app_server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    report = tmp_path / "report.md"
    report.write_text("# Tides\n\n" + "The sea rises twice a day because the moon pulls at it. " * 20)
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.DOTALL)
    assert 'Client("http://127.0.0.1:7860/"' in code
    code = code.replace("http://127.0.0.1:7860/", app_server.url).replace("report.pdf", str(report))
    names: dict[str, object] = {}
    exec(compile(code, str(DOCS), "exec"), names)
    assert isinstance(names["answer"], str)
    assert names["answer"].strip()
    assert names["conversation"]
    assert str(names["summary"]).strip()
    assert "n_seen" in capsys.readouterr().out
    names["client"].close()


def test_a_password_and_a_wrong_conversation(start_app, client_of):
    server = start_app("-c", "256", env={"LACACHE_AUTH": "me:secret"})
    assert ask(server, "GET", "/config", {})[0] == 401
    client = client_of(server, headers={"Authorization": "Basic " + base64.b64encode(b"me:secret").decode()})
    assert client.predict(api_name="/memory") is not None
    with pytest.raises(Exception, match="there is no conversation"):
        client.predict("Hello", "nonsense", api_name="/chat")
