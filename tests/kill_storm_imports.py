"""What a storm's processes have in memory when they are forked."""

import torch

import reattention_eval.harness.standalone
import reattention_eval.harness.tasks  # noqa: F401

torch.set_num_threads(1)
