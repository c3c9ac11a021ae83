"""Errors that mean something to a user.

Every one is shown without a traceback; its text says what was wrong, the value seen and what to do.
`exit_code` is what the command line returns for it.
"""

from __future__ import annotations


class LacacheError(Exception):
    """Base of everything a user can cause."""

    exit_code = 1


class UsageError(LacacheError):
    """A setting or argument that cannot work."""

    exit_code = 2


class PolicyError(UsageError):
    """Policy settings that are impossible for this model and budget."""


class ModelNotFound(LacacheError):
    """No such file, catalog name or repository."""

    exit_code = 3


class OutOfMemory(LacacheError):
    """Weights, KV memory or compute buffers do not fit."""

    exit_code = 4


class DamagedModel(LacacheError):
    """A file that is no readable GGUF model."""

    exit_code = 5


class UnsupportedModel(LacacheError):
    """A readable model whose memory cannot be compacted exactly; the text says why."""

    exit_code = 6


class MemoryFull(LacacheError):
    """The policy may not free enough cells (Full), or everything left is protected."""

    exit_code = 7


class DownloadError(LacacheError):
    """The model hub could not be reached or refused."""

    exit_code = 8


class DamagedCheckpoint(LacacheError):
    """A saved memory that is cut short, altered or no such file at all; nothing was loaded."""

    exit_code = 9


class CheckpointMismatch(LacacheError):
    """A saved memory of another model, budget, KV type or policy; nothing was loaded."""

    exit_code = 10


class StorageError(LacacheError):
    """A file could not be written: the disk is full, the folder is read-only; what was there before is still there."""

    exit_code = 11
