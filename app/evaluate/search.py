"""Which policy suits a model, a budget and a text: successive halving over stretches of the text.

What it is: `CANDIDATES`, `search` (every candidate reads a stretch, the better half reads the next one, until one is
left or the time is over) and `Finding`, what came out. The last third of the text takes no part in the search; the
winner and the default are measured there, and only that tells whether it is better. Losses hardly see what is said once
and asked for later, so a winner must also find as many pass keys as the default.
What it does not know: files, screens, where a finding is stored.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from lacache_app.evaluate.bench import Bench, Setup
from lacache_app.evaluate.recall import n_found
from lacache_app.evaluate.runner import Tick
from lacache_app.evaluate.stats import Blocks, Interval, difference
from lacache_app.memory_spec import DEFAULT, MemorySpec, Size, parse_memory

from lacache_gguf.errors import LacacheError, UsageError

CANDIDATES = (
    # the most promising first: what there is no time for is left out from the end
    "salience:pos=0",
    "salience:fade=0.1",
    "salience:pos=2048",
    "salience:surprise=1",
    "salience:surprise=0",
    "salience:fade=0.5",
    "salience:recent=50%",
    "salience:attention=1",
    "salience:pos=4096",
    "salience:heads=layer",
    "salience:keydiff=0",
    "scored_ladder:score=attention,heads=each",
    "scored_ladder:score=keydiff",
    "ladder",
    "scored_ladder:score=attention,heads=each,recent=25%",
    "scored_ladder:score=keydiff,recent=25%",
    "cascade",
    "h2o",
    "snapkv",
    "keydiff",
    "ladder:recent=25%",
    "tova",
    "sink_window",
)
"""Memories to try, as they are written for `lacache eval`; what a model or a budget does not allow is left out."""
_TIMES = (8, 6, 4, 3, 2)  # tokens of a stretch, in budgets; losses count once the memory is full
_N_HELD_OUT = 32  # stretches at most; as many as there is time for when the search is done
_N_CHECK = 6  # stretches of the check that time is planned for
_SHARE_SEARCH = 0.75  # of the time
_SHARE_RECALL = 0.1  # of the time, at most, to count how many pass keys of `_N_PROMPTS` a memory finds
_N_PROMPTS = (4, 10)  # at least, whatever that takes, and at most


@dataclass
class Trial:
    """A candidate: its setup, and the losses of every stretch that it has read, behind the first full memory."""

    spec: MemorySpec
    setup: Setup
    losses: list[Blocks] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """What a search found. `held_out` is the winner's loss less the default's on text that it did not see (nats);
    `recalled` how many pass keys winner and default find, of how many, None if that was not needed to refuse it."""

    winner: str
    searched: Interval
    held_out: Interval
    n_tokens_searched: int
    n_tokens_held_out: int
    table: tuple[tuple[str, int, Interval], ...]  # (memory, stretches read, loss less the default's), best first
    recalled: tuple[int, int, int] | None = None

    @property
    def reads_better(self) -> bool:
        """Whether the winner's loss is surely lower than the default's: the whole interval says so."""
        return self.winner != DEFAULT and self.held_out.high < 0

    @property
    def is_better(self) -> bool:
        """Whether it reads better, and finds no fewer pass keys."""
        return self.reads_better and self.recalled is not None and self.recalled[0] >= self.recalled[1]


class Clock:
    """Time that is left of a limit."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._start, self.seconds = now, now(), seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self._now() - self._start


def search(
    bench: Bench,
    tokens: np.ndarray,
    size: Size,
    clock: Clock,
    tick: Tick,
    *,
    n_ubatch: int = 16,
    types: tuple[str, str] = ("f16", "f16"),
    candidates: Sequence[str] = CANDIDATES,
    note: Callable[[str], None] = lambda text: None,
) -> Finding:
    """Try the candidates on the first two thirds of `tokens` and measure the best on the rest, within the clock.

    Raises UsageError if the text or the time is too short, Stopped from `tick`.
    """
    trials = _trials(bench, size, n_ubatch, types, candidates, note)
    default, others = trials[0], trials[1:]
    n_cells = default.setup.n_ctx
    if len(tokens) < 2 * (2 * n_cells + 1):
        raise UsageError(
            f"the text has {len(tokens):,} tokens, and {n_cells:,} cells need {4 * n_cells + 2:,} at least, half of "
            "them to search and half to check what was found; give a longer text or a smaller memory"
        )
    reader = _Reader(bench, n_ubatch, tick)
    begin = clock.spent
    reader.read(default, tokens[: 2 * n_cells + 1])
    speed = 2 * n_cells / max(1e-9, clock.spent - begin)  # tokens per second
    default.losses.clear()
    seen, unseen = _stretches(tokens, n_cells, speed * (clock.seconds - clock.spent), len(trials))
    n = len(unseen[0])
    n_prompts = round(_SHARE_RECALL * clock.seconds * speed / (2 * n_cells))
    n_prompts = min(max(n_prompts, _N_PROMPTS[0]), _N_PROMPTS[1])
    reserve = (2 * n + 4 * n_cells * n_prompts) / speed  # seconds to check one stretch and recall, for two memories

    def is_over() -> bool:
        """Whether there is no time for one more stretch and the check behind it."""
        return clock.spent + n / speed > min(_SHARE_SEARCH * clock.seconds, clock.seconds - reserve)

    left = others
    for number, part in enumerate(seen, 1):
        if is_over() or not left:
            break
        reader.read(default, part)
        done = []
        for trial in left:
            if is_over():
                break
            try:
                reader.read(trial, part)
                done.append(trial)
            except LacacheError as error:
                note(f"left out: {trial.spec.name}: {error}")
        left = sorted(done, key=lambda trial: _against(trial, default).value)
        if left:
            note(f"round {number}: {len(left)} read {len(part) - 1:,} tokens; best so far: {left[0].spec.name}")
        left = left[: len(left) // 2]
    tried = [trial for trial in others if trial.losses]
    if not tried:
        raise UsageError("there was no time to try anything; give more --minutes, a smaller memory or a smaller model")
    tried.sort(key=lambda trial: (-len(trial.losses), _against(trial, default).value))
    winner, searched = tried[0], _against(tried[0], default)
    check = [Trial(trial.spec, trial.setup) for trial in (winner, default)]
    for part in unseen if searched.value < 0 else ():
        if check[0].losses and clock.spent + reserve > clock.seconds:
            break
        for trial in check:
            reader.read(trial, part)
    finding = Finding(
        winner.spec.name if searched.value < 0 else DEFAULT,
        searched,
        _against(*check) if check[0].losses else Interval(math.nan, math.nan, math.nan),
        sum(blocks.n_tokens for blocks in winner.losses),
        sum(blocks.n_tokens for blocks in check[0].losses),
        tuple((trial.spec.name, len(trial.losses), _against(trial, default)) for trial in tried),
    )
    if not finding.reads_better:
        return finding
    found = [n_found(bench, trial.spec, size, 2 * n_cells, n_prompts, n_ubatch, tick) for trial in check]
    return replace(finding, recalled=(*found, n_prompts))


def _trials(
    bench: Bench,
    size: Size,
    n_ubatch: int,
    types: tuple[str, str],
    candidates: Sequence[str],
    note: Callable[[str], None],
) -> list[Trial]:
    """The default and every candidate that can be, each setup once."""
    found: list[Trial] = []
    for text in (DEFAULT, *candidates):
        try:
            spec = parse_memory(text, *types)
            setup = bench.setup(spec, size, 0, n_ubatch)
        except LacacheError as error:
            if text == DEFAULT:
                raise
            note(f"left out: {text}: {error}")
            continue
        if all(setup.identity != other.setup.identity for other in found):
            found.append(Trial(spec, setup))
    return found


def _stretches(
    tokens: np.ndarray, n_cells: int, n_affordable: float, n_trials: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Pieces of the text to search on and to check on, as long as text and time allow, int32 [n + 1] each."""
    for times in _TIMES:
        n = times * n_cells + 1
        n_seen = max(1, 2 * len(tokens) // 3 // n)
        n_unseen = min(_N_HELD_OUT, (len(tokens) - n_seen * n) // n)
        if n_unseen >= 1 and (times == _TIMES[-1] or n * (2 * n_trials + _N_CHECK) <= n_affordable):
            break
    unseen = [tokens[len(tokens) - (i + 1) * n : len(tokens) - i * n] for i in range(max(1, n_unseen))]
    return [tokens[i * n : (i + 1) * n] for i in range(n_seen)], unseen


@dataclass(frozen=True)
class _Reader:
    bench: Bench
    n_ubatch: int
    tick: Tick

    def read(self, trial: Trial, tokens: np.ndarray) -> None:
        """Add the losses of a stretch that is read into a fresh memory."""
        from lacache_gguf.sampling import nll

        losses, n = np.empty(len(tokens) - 1, dtype=np.float32), 0
        with self.bench.open(trial.setup, self.n_ubatch) as engine:
            for logits in engine.logits(tokens[:-1], self.n_ubatch):
                end = n + len(logits)
                losses[n:end] = nll(logits, tokens[n + 1 : end + 1])
                n = end
                self.tick(len(logits), engine)
        trial.losses.append(Blocks.of(losses[trial.setup.n_ctx :]))


def _against(trial: Trial, default: Trial) -> Interval:
    """Loss less the default's on the stretches that both have read."""
    n = min(len(trial.losses), len(default.losses))
    return difference([_joined(trial.losses[:n])], [_joined(default.losses[:n])])


def _joined(parts: Sequence[Blocks]) -> Blocks:
    return Blocks(np.concatenate([part.sums for part in parts]), np.concatenate([part.counts for part in parts]))
