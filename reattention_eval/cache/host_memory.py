"""Host memory that a device can read: taken in blocks, pinned where it can be."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from math import prod

import torch
from torch import Tensor

from reattention_eval.cache.tiers import block_tokens
from reattention_eval.errors import HostMemoryError
from reattention_eval.machine_memory import GIB, MIB, SPARE_BYTES, main_memory

_PROBE_BYTES = 32 << 20


def require_host_memory(nbytes: int) -> None:
    """Raise HostMemoryError where the host has not so many bytes left for what is read next (limits
    of a container or a job count)."""
    left = main_memory()
    if left is not None and nbytes > left - SPARE_BYTES:
        what = f"the cache needs {nbytes / MIB:,.0f} MiB"
        raise _too_little(what, left, " for the tokens that come next")


def require_host_room(needed: int, held: int, rows: int, tokens: int, tier: str) -> None:
    """The same of all that `rows` rows of `tokens` tokens need; of it `held` bytes are there."""
    left = main_memory()
    if left is not None and needed - held > left - SPARE_BYTES:
        most = max(0, left - SPARE_BYTES) + held
        asked = f"{rows} x {tokens:,} tokens (prompt and max_new_tokens)"
        enough = f", enough for about {tokens * most // needed:,} tokens"
        what, where = f"{asked} need {needed / GIB:,.1f} GiB", f' with cache="{tier}"'
        raise _too_little(what, left + held, where, enough)


def _too_little(what: str, left: int, where: str = "", enough: str = "") -> HostMemoryError:
    return HostMemoryError(
        f"{what} of host memory{where}, and {left / GIB:,.1f} GiB are left here, of which "
        f"{SPARE_BYTES / GIB:.1f} stay free{enough}: shorten the prompt, lower max_new_tokens, "
        'give the job more memory, or keep the cache on the device (cache="device").'
    )


class HostMemory:
    """What the layers of a model take of the host. Pinned while that succeeds; said once when not,
    and from then on pageable.

    Attributes:
        taken: bytes taken of the system so far.
        pins: whether what is taken is pinned, where a GPU reads it.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.pins = True
        self._free: dict[tuple[object, ...], list[Tensor]] = {}

    @property
    def free_bytes(self) -> int:
        """Held, and in nobody's use."""
        return sum(x.numel() * x.element_size() for held in self._free.values() for x in held)

    def release(self, blocks: Iterable[Tensor]) -> None:
        """Nobody reads or writes these any more; the next who takes as much gets them."""
        for block in blocks:
            self._free.setdefault((*block.shape, block.dtype), []).append(block)

    def take(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Unwritten memory for `device` to read.

        Raises:
            HostMemoryError: there is too little left.
        """
        free = self._free.get((*shape, dtype))
        if free:
            return free.pop()
        nbytes = prod(shape) * dtype.itemsize
        require_host_memory(nbytes)
        self.taken += nbytes
        with torch.inference_mode(False):  # written in and outside inference mode alike
            if device.type == "cuda" and self.pins:
                try:
                    return torch.empty(*shape, dtype=dtype, device="cpu", pin_memory=True)
                except RuntimeError as error:
                    self.pins = False
                    warnings.warn(_pageable(device, str(error)), RuntimeWarning, stacklevel=2)
            return torch.empty(*shape, dtype=dtype, device="cpu")

    def give_back(self) -> None:
        """To the system: what is in nobody's use."""
        self._free.clear()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()
            empty = getattr(torch.accelerator, "empty_host_cache", None)
            empty = empty or getattr(torch._C, "_host_emptyCache", None)
            if empty is not None:  # without, they serve the next who asks PyTorch for pinned memory
                empty()


class HostBlocks:
    """A row's tokens [Hkv, D] of one layer in host memory, in blocks: more of them are added, none
    is moved.

    like: [*, Hkv, *, D], of the device that reads them.
    """

    def __init__(self, memory: HostMemory, like: Tensor, tokens: int | None = None) -> None:
        self._memory, self._device, self._dtype = memory, like.device, like.dtype
        self._token = like.shape[1], like.shape[3]
        self.size = tokens or block_tokens(like.shape[1] * like.shape[3] * like.element_size())
        self.blocks: list[Tensor] = []  # [size, Hkv, D] each
        with torch.inference_mode(False):
            self.addresses = torch.zeros(64, dtype=torch.int64, device=self._device)
        self.readable = True  # by the device, where they lie
        self._reserved = 0

    @property
    def nbytes(self) -> int:
        return sum(block.numel() * block.element_size() for block in self.blocks)

    def bytes_of(self, tokens: int) -> int:
        """Taken for so many tokens."""
        token = self._token[0] * self._token[1] * self._dtype.itemsize
        return -(-tokens // self.size) * self.size * token

    def clear(self) -> None:
        """Hold nothing; nothing of it is on its way."""
        self._memory.release(self.blocks)
        self.blocks = []

    def reserve(self, tokens: int) -> None:
        """Have places for so many tokens' addresses; their memory is taken when they come, while
        the device computes: pinning takes a second for a few GiB. `addresses` may be another
        tensor then."""
        self._reserved, count = tokens, -(-tokens // self.size)
        if count > len(self.addresses):
            held = self.addresses
            with torch.inference_mode(False):
                self.addresses = held.new_zeros(2 * count)
                self.addresses[: len(held)] = held

    def write(self, start: int, value: Tensor) -> None:
        """value [Hkv, n, D], into the places of tokens start.. ; ordered on the current stream.

        Raises:
            HostMemoryError: there is too little left.
        """
        tokens = value.transpose(0, 1).contiguous()
        self._take(start + len(tokens))
        for block, first, part in self._parts(start, start + len(tokens)):
            here = tokens[first - start : first - start + len(part)]
            block[part.start : part.stop].copy_(here, non_blocking=True)

    def fill(self) -> None:
        """Take what is reserved: steps that a CUDA graph repeats read blocks where they lie, and
        one that could not be pinned must be known before they are captured."""
        self._take(self._reserved)

    def _take(self, tokens: int) -> None:
        """Memory for so many."""
        held = len(self.blocks)
        while len(self.blocks) * self.size < tokens:
            block = self._memory.take((self.size, *self._token), self._dtype, self._device)
            self.blocks.append(block)
            self.readable &= self._device.type != "cuda" or block.is_pinned()
        if len(self.blocks) > held:
            new = torch.tensor([block.data_ptr() for block in self.blocks[held:]], device="cpu")
            # the host goes on: what is not pinned has been read when a copy is called
            self.addresses[held : len(self.blocks)].copy_(new, non_blocking=True)

    def read(self, start: int, stop: int, out: Tensor) -> None:
        """Tokens start..stop - 1 into out [Hkv, stop - start, D]; ordered likewise."""
        for block, first, part in self._parts(start, stop):
            tokens = block[part.start : part.stop].to(out.device, non_blocking=True)
            out[:, first - start : first - start + len(part)] = tokens.transpose(0, 1)

    def _parts(self, start: int, stop: int) -> list[tuple[Tensor, int, range]]:
        """(block, first token, places in the block) of a run of tokens."""
        found, first = [], start
        while first < stop:
            i, at = divmod(first, self.size)
            end = min(self.size, at + stop - first)
            found.append((self.blocks[i], first, range(at, end)))
            first += end - at
        return found


def _pageable(device: torch.device, reason: str) -> str:
    """What is said once, with the rate at which pageable memory is copied here."""
    pageable = torch.ones(_PROBE_BYTES, dtype=torch.uint8, device="cpu")
    speed = f"copied to the GPU at {_rate(pageable, device):.1f} GB/s here"
    try:
        pinned = pageable[: _PROBE_BYTES // 8].pin_memory()
        speed += f", where pinned memory takes {_rate(pinned, device):.1f} GB/s"
    except RuntimeError:
        pass
    return (
        f"host memory for the cache cannot be pinned ({reason.splitlines()[0]:.120}): from here on "
        f"it is pageable, {speed}; every layer waits for its values, and decode steps are launched "
        "one by one. The answers are the same. Give the job or container more lockable memory."
    )


def _rate(data: Tensor, device: torch.device) -> float:
    """GB/s."""
    data.to(device)
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    data.to(device)
    torch.cuda.synchronize(device)
    return data.numel() / (time.perf_counter() - begun) / 1e9
