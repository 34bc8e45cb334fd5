"""Memory that a kernel should have written and did not shows: it starts as NaN or as INT_MAX."""

import pytest
import torch


@pytest.fixture
def poisoned_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills what torch.empty gives
    before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def few_programs(request, monkeypatch):
    """Work is shared out to few programs: the interpreter runs them one by one.

    Parametrised with False, to as many as on a GPU.
    """
    from reattention_kernels.view import launch

    if getattr(request, "param", True):
        for name, programs in (("DECODE_SPLITS", 2), ("MORE_SPLITS", 2), ("WHOLE_PROGRAMS", 16)):
            monkeypatch.setattr(launch, name, programs)
