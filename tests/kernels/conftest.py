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
