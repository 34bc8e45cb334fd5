"""The random models of gpu_scale_worker.py: whole, split by heads, or spread by layers."""

from __future__ import annotations

from typing import Any

import torch
from gpu_scale_shapes import SHAPES, TINY
from transformers import AutoModelForCausalLM

from reattention_eval.parallel import Ranks, build_split, split


class Models:
    """Models and prompts of one way over its devices; `tiny` ones for a CPU."""

    def __init__(self, way: str, ranks: Ranks, devices: list[torch.device], tiny: bool) -> None:
        self._way, self._ranks, self._devices, self._tiny = way, ranks, devices, tiny

    def config(self, shape: str, **own: Any) -> Any:
        config_class, settings = SHAPES[shape]
        own |= dict(eos_token_id=None, bos_token_id=None, tie_word_embeddings=False)
        return config_class(**{**settings, **(TINY if self._tiny else {}), **own})

    def prompt(self, config: Any, length: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.randint(10, config.vocab_size, (1, length), generator=generator)

    def whole_then_spread(self, config: Any, dtype: torch.dtype) -> Any:
        """The same weights in every way: made whole on one GPU from a seed, then spread."""
        torch.manual_seed(1)
        with self._ranks.device:
            whole = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        whole.generation_config.eos_token_id = None
        if self._way == "tensor_parallel":
            return split(whole, self._ranks)
        return self._dispatched(whole, config) if self._way == "device_map" else whole

    def random(self, config: Any) -> Any:
        """Random weights made where they stay."""
        dtype = torch.float32 if self._tiny else torch.bfloat16
        if self._way == "tensor_parallel":
            model: Any = build_split(config, self._ranks, dtype)
        else:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
            model = self._dispatched(model, config)
        model.generation_config.eos_token_id = None
        generator: dict[torch.device, torch.Generator] = {}
        for name, parameter in model.named_parameters():
            device = parameter.device
            if device not in generator:
                generator[device] = torch.Generator(device).manual_seed(self._ranks.rank)
            with torch.no_grad():
                if "norm" in name:
                    parameter.fill_(1.0)
                else:
                    parameter.normal_(0, 0.02, generator=generator[device])
        return model

    def _dispatched(self, model: Any, config: Any) -> Any:
        """Layers spread evenly over this process's devices, as device_map does."""
        count, places = config.num_hidden_layers, self._devices
        where = {"model.embed_tokens": places[0], "model.rotary_emb": places[0]}
        for layer in range(count):
            where[f"model.layers.{layer}"] = places[layer * len(places) // count]
        where |= {"model.norm": places[-1], "lm_head": places[-1]}
        for name, device in where.items():
            module = model.get_submodule(name)
            if name == "model.rotary_emb":
                with device:
                    model.model.rotary_emb = type(module)(config=config)
            elif any(p.is_meta for p in module.parameters()):
                module.to_empty(device=device)
            else:
                module.to(device)
        if self._way == "device_map":
            from accelerate import dispatch_model

            place = {name: device.index if device.type == "cuda" else "cpu"
                     for name, device in where.items()}  # fmt: skip
            skip = model._skip_keys_device_placement
            model = dispatch_model(model, place, skip_keys=skip, force_hooks=True)
        return model
