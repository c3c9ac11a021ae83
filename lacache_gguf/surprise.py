"""How unlikely the tokens of a text were: losses in nats among the frequent tokens of the vocabulary and themselves.

Vocabularies begin with what is frequent, so that a small part of them has most of the probability. The output layer
takes as small a part of the time for it, and which cells are kept hardly changes (docs/quality-log.md).

    context.set_n_vocab(n_frequent(model.n_vocab))
    context.decode(chunk, pos, all_logits=True)
    losses_from(context.totals(len(chunk) - 1), chunk[1:], context.n_vocab)
"""

from __future__ import annotations

import numpy as np

from lacache_gguf.sampling import log_total

_SHARE, _N_LEAST = 48, 1024
_N_SMALL = 8192  # a vocabulary below this costs little


def n_frequent(n_vocab: int) -> int:
    """How many of `n_vocab` tokens count as frequent; 0 = all, since there are few."""
    return max(n_vocab // _SHARE, _N_LEAST) if n_vocab >= _N_SMALL else 0


def losses_of(logits: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Losses float32 [n] of `tokens` int [n] under `logits` float32 [n, n_vocab]."""
    n = n_frequent(logits.shape[-1]) or logits.shape[-1]
    return losses_from(log_total(logits[:, :n]) - logits[np.arange(len(tokens)), tokens], tokens, n)


def losses_from(totals: np.ndarray, tokens: np.ndarray, n_vocab: int) -> np.ndarray:
    """The same from `totals` float32 [n], over the first `n_vocab` tokens, less the logit of the token; see
    `Context.totals`. A token that is none of them counts itself."""
    return np.where(tokens < n_vocab, totals, np.logaddexp(totals, np.float32(0)))
