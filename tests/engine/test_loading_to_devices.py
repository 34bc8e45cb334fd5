"""What `save` kept, read into a layer that lies elsewhere than the files' tensors."""

from __future__ import annotations

from pathlib import Path

import torch

from reattention_eval.cache import LayerCache
from reattention_eval.engine import save_hooked


def test_shards_go_to_the_device_of_the_layer(monkeypatch):
    """Files give tensors on the CPU; a cache takes keys of its own device only."""
    layer = LayerCache()
    layer.reserve(1, 9)
    first = torch.empty(2, 3, 4, device="meta")
    layer.append(0, first, first)
    layer.reserve(1, 9)
    shards = [torch.zeros(2, tokens, 4) for tokens in (5, 2)]

    def read(folder, about, name):
        at = int(name.split("-")[2].split(".")[0])
        return {"key": shards[at], "value": shards[at]}

    monkeypatch.setattr(save_hooked, "read_file", read)
    save_hooked._fill(layer, Path(), {"tokens": 7}, 0)
    assert layer.lengths == [7]
    assert layer.row(0).key.device.type == "meta"
