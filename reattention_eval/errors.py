"""The errors a user can meet: each says what is wrong, what was found and what to do."""

from __future__ import annotations


class ReAttentionError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(ReAttentionError, ValueError):
    """A setting, argument or combination of them cannot work."""


class MachineError(ConfigError):
    """This machine lacks what a method or a score needs; on another one it may run."""


class HostMemoryError(ConfigError):
    """The host has too little memory left for what of a cache is to be there."""


class DeviceMemoryError(ConfigError):
    """The cache of a prompt, and the room asked for behind it, is more than its device has left."""


class SharedGpuError(ConfigError):
    """Other processes hold so much of a GPU that it has no room left for a prompt."""


class DataError(ReAttentionError):
    """A data file is missing, damaged, or too small for what was asked of it."""


class CheckpointError(ReAttentionError):
    """A model folder or file is missing, damaged, or of a kind that cannot be loaded."""


class DownloadError(ReAttentionError):
    """A file could not be fetched from the package registry, or came damaged."""


class RunFolderError(ReAttentionError):
    """A run's folder takes no more files: its disk is full, or it is not to be written to."""


class SelectionError(ReAttentionError, RuntimeError):
    """A method that should have selected keys did not: the run would be a silent full attention."""


class NonFiniteLogitsError(ReAttentionError, ArithmeticError):
    """Logits that a token or a likelihood is taken from are NaN or infinite: there is no answer."""
