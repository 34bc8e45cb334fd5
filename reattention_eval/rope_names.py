"""RoPE settings under the name that the installed transformers reads.

transformers 5 writes `rope_parameters`; 4.57 reads `rope_theta` and `rope_scaling`, and takes a
configuration of 5 without a word for one that has neither: base 10,000, no scaling. (5 reads both.)
"""

from __future__ import annotations

from typing import Any

from reattention_eval.errors import ConfigError


def unread_rope(config: Any) -> dict[str, Any]:
    """The RoPE settings that the installed transformers leaves unread; mostly none.

    Settings that stand under both names are read.
    """
    import transformers

    written = dict(getattr(config, "rope_parameters", None) or {})
    if not written or not transformers.__version__.startswith("4."):
        return {}
    read = {"rope_type": "default", **vars(config), **(getattr(config, "rope_scaling", None) or {})}
    alike = all(name in read and read[name] == value for name, value in written.items())
    return {} if alike else written


def with_rope_read(config: Any) -> Any:
    """`config`, with what is unread under the names that are read.

    Raises:
        ConfigError: transformers 4.57 has no name for it (a RoPE for each type of layers).
    """
    settings = unread_rope(config)
    if not settings:
        return config
    if any(isinstance(value, dict) for value in settings.values()):
        raise ConfigError(
            f"this {config.model_type} model has a RoPE for each type of its layers, written as "
            "transformers 5 does (rope_parameters), which 4.57 does not read; install "
            "transformers 5."
        )
    kind = settings.setdefault("rope_type", settings.pop("type", "default"))
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in settings:
            setattr(config, name, settings.pop(name))
    if kind == "longrope" and "original_max_position_embeddings" in settings:
        config.original_max_position_embeddings = settings["original_max_position_embeddings"]
    config.rope_scaling = None if kind == "default" else settings
    del config.rope_parameters
    return config


def check_rope_is_read(config: Any) -> None:
    """Of a model that somebody else loaded.

    Raises:
        ConfigError: it computes with other frequencies than its checkpoint says.
    """
    if settings := unread_rope(config):
        raise ConfigError(
            f"this {config.model_type} model was loaded by transformers 4.57, which does not read "
            f"the RoPE settings of its config.json ({settings!r:.120}) and took its defaults; load "
            "it by reattention_eval.load, or with transformers 5."
        )
