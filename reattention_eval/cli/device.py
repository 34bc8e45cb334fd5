"""`--device` of the commands that compute."""

from __future__ import annotations

import torch

from reattention_eval.errors import ConfigError


def checked_device(name: str | None, choices: str) -> torch.device:
    """The device called `name`, by default a GPU where there is one.

    choices: what the error offers.

    Raises:
        ConfigError: no such device, or no CUDA here.
    """
    cuda = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if cuda else "cpu"))
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ConfigError(f"there is no device {name!r} to compute on; give {choices}.")
    if device.type == "cpu":
        return torch.device("cpu")  # whether or not it was given a number
    if not cuda:
        raise ConfigError("no CUDA device is visible here; leave --device out, or give cpu.")
    return device
