"""The chat in the terminal: a conversation and its commands, apart from where lines come from.

What it is: `ChatSession.handle(line)` answers a message or carries out a command.
What it does not know: line editing, argument parsing, how an engine remembers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lacache_app.terminal import Terminal, mib, stop_on_ctrl_c

if TYPE_CHECKING:
    from lacache_gguf.engine import Engine
    from lacache_gguf.events import Progress

HELP = """\
  /help            this list
  /stats           tokens seen, cells in use, compactions, speed
  /reset           forget the conversation (the system message stays)
  /system TEXT     set the system message and start anew; without TEXT: show it
  /save FILE       write the conversation: Markdown, or JSON if FILE ends in .json
  /exit            leave (Ctrl-D too)
A line that ends in \\ goes on in the next one. Ctrl-C stops an answer."""


class Leave(Exception):
    """The user wants to end the chat."""


class _Stopped(Exception):
    """Ctrl-C while the model was reading."""


class ChatSession:
    """Messages so far and the engine that answers them."""

    def __init__(self, engine: Engine, terminal: Terminal, sampling: dict[str, Any], system: str = "") -> None:
        self.engine, self.terminal, self.sampling = engine, terminal, sampling
        self.system = system
        self.messages: list[dict[str, str]] = []
        self.saved_to: set[Path] = set()

    def handle(self, text: str) -> None:
        """Carry out a command or answer a message. Errors are shown and the chat goes on. Raises Leave for /exit."""
        from lacache_gguf.errors import LacacheError

        text = text.strip()
        try:
            if text.startswith("/"):
                self._command(text)
            elif text:
                self.answer(text)
        except LacacheError as error:
            self.terminal.note(f"error: {error}")

    def answer(self, text: str) -> bool:
        """Stream the answer to a message; False if Ctrl-C stopped it. What was said until then stays said."""
        self.messages.append({"role": "user", "content": text})
        written, is_stopped = "", False
        try:
            with stop_on_ctrl_c() as stop, self.terminal.reading(is_brief=True) as on_progress:

                def reading(progress: Progress) -> None:
                    if stop.requested:
                        raise _Stopped
                    on_progress(progress)

                stream = self.engine.chat(self._all_messages(), on_progress=reading, **self.sampling)
                for piece in stream:
                    written += piece
                    self.terminal.stream(piece)
                    if stop.requested:
                        stream.close()
                        raise _Stopped
        except _Stopped:
            is_stopped = True
        finally:
            if written:
                self.terminal.end_stream()
                self.messages.append({"role": "assistant", "content": written})
            else:
                self.messages.pop()
        if is_stopped:
            self.terminal.note("(stopped)" if written else "(stopped before the answer)")
        elif self.engine.stats.finish_reason == "length":
            self.terminal.note("(cut at -n tokens)")
        return not is_stopped

    def _all_messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}, *self.messages] if self.system else list(self.messages)

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        rest = rest.strip()
        if name in ("/exit", "/quit", "/bye"):
            raise Leave
        commands = {"/help": self._help, "/?": self._help, "/stats": self._stats, "/reset": self._reset,
                    "/system": self._set_system, "/save": self._save}  # fmt: skip
        if name not in commands:
            self.terminal.note(f"no command {name}; /help lists them")
            return
        commands[name](rest)

    def _help(self, _rest: str) -> None:
        self.terminal.note(HELP)

    def _stats(self, _rest: str) -> None:
        from lacache_app.summarize import counters

        stats, costs = self.engine.stats, counters(self.engine.stats)
        used, full = mib(costs["kv_mib_allocated"] * 2**20), mib(costs["kv_mib_full_cache"] * 2**20)
        self.terminal.table([
            ("tokens seen", f"{costs['n_seen']:,}"),
            ("cells in use", f"{stats.n_cells:,} of {costs['n_ctx']:,} (peak {costs['n_cells_peak']:,})"),
            ("KV memory", f"{used}; a full cache: {full}"),
            ("compactions", f"{costs['n_compactions']:,} ({100 * costs['compact_share']:.1f} % of the time)"),
            ("reading", f"{costs['read_tokens_per_s']:,.0f} tokens/s"),
            ("writing", f"{costs['decode_tokens_per_s']:,.0f} tokens/s"),
        ])  # fmt: skip

    def _reset(self, _rest: str) -> None:
        self.engine.reset()
        self.messages = []
        self.terminal.note("forgotten; a new conversation begins")

    def _set_system(self, text: str) -> None:
        if not text:
            self.terminal.note(f"system message: {self.system or '(none)'}")
            return
        self.system = text
        self._reset("")

    def _save(self, name: str) -> None:
        from lacache_gguf.errors import UsageError

        if not name:
            raise UsageError("/save needs a file name, such as /save talk.md")
        try:
            path = Path(name).expanduser().resolve()
            if path.exists() and path not in self.saved_to:
                raise UsageError(f"{path} exists already; give another name")
            path.write_text(self._transcript(path.suffix), encoding="utf-8")
        except (OSError, RuntimeError, ValueError) as error:  # no such user, a name too long, a NUL in it
            raise UsageError(f"cannot write {name}: {getattr(error, 'strerror', None) or error}") from error
        self.saved_to.add(path)
        self.terminal.note(f"saved {len(self.messages)} messages to {path}")

    def _transcript(self, suffix: str) -> str:
        messages = self._all_messages()
        if suffix.lower() == ".json":
            talk = {"model": self.engine.model.name, "messages": messages}
            return json.dumps(talk, ensure_ascii=False, indent=1) + "\n"
        return "\n\n".join(f"## {message['role']}\n\n{message['content'].strip()}" for message in messages) + "\n"
