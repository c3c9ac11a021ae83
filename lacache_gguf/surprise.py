"""How unlikely the tokens of a text were: losses in nats among the frequent tokens of the vocabulary and themselves.

Vocabularies begin with what is frequent, so that an eighth of them has nearly all of the probability. The output layer
for an eighth takes an eighth of the time, and which cells are kept hardly changes (docs/quality-log.md).

    context.set_n_vocab(n_frequent(model.n_vocab))
    context.decode(chunk, pos, all_logits=True)
    losses_of(context.logits(len(chunk))[:-1], chunk[1:], is_part=context.n_vocab > 0)
"""

from __future__ import annotations

import numpy as np

from lacache_gguf.sampling import log_total

_SHARE = 8
_N_SMALL = 8192  # a vocabulary below this costs little


def n_frequent(n_vocab: int) -> int:
    """How many of `n_vocab` tokens count as frequent; 0 = all, since there are few."""
    return n_vocab // _SHARE if n_vocab >= _N_SMALL else 0


def losses_of(logits: np.ndarray, tokens: np.ndarray, is_part: bool = False) -> np.ndarray:
    """Losses float32 [n] of `tokens` int [n] under `logits` float32 [n, n_vocab].

    is_part: rows are what `Context.set_n_vocab` makes, with the logit of the token behind those of the frequent ones.
    """
    n = n_frequent(logits.shape[-1])
    own = logits[:, n] if is_part else logits[np.arange(len(tokens)), tokens]
    if not n:
        return log_total(logits) - own
    total = log_total(logits[:, :n])
    return np.where(tokens < n, total, np.logaddexp(total, own)) - own
