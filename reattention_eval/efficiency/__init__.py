"""What long prompts cost: memory and time before anything is loaded."""

from reattention_eval.efficiency.plan import (
    MemoryPlan,
    Placement,
    largest_length,
    peak_memory,
    plan_memory,
    prompt_forward,
    tiers_of,
)
from reattention_eval.efficiency.shape import ModelShape, read_shape, shape_of
from reattention_eval.machine_memory import accelerator_memory, main_memory, usable

__all__ = [
    "MemoryPlan",
    "ModelShape",
    "Placement",
    "accelerator_memory",
    "largest_length",
    "main_memory",
    "peak_memory",
    "plan_memory",
    "prompt_forward",
    "read_shape",
    "shape_of",
    "tiers_of",
    "usable",
]
