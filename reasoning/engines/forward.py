"""One forward pass at a time: prefill prompts, then step many rows by one token each.

`Forward` is what the sampling loop drives; here are the two that run any Hugging Face causal model through its
own forward method: `CachedForward` with one key/value store for all rows, and `WholeForward`, which reads every
sequence anew, for architectures whose state is no such store. Neither knows how tokens are chosen.

Every row's keys and values start at position 0 and are padded on the right, and matrix products are given at
least `MIN_ROWS` rows, a multiple of it: on a CPU in float32 a row's numbers then do not depend, in any bit, on
how many other rows there are (with fewer rows BLAS picks other kernels).
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from reasoning.errors import UserError
from reasoning.flops import ModelShape

MIN_ROWS = 16
PREFILL_TOKENS = 4096


def padded(count: int, multiple: int = MIN_ROWS) -> int:
    return -(-count // multiple) * multiple


def block(head_dim: int) -> int:
    """Positions in a block: attention reads, and stores grow, by whole ones. Products of under 400
    multiplications take another path in torch, so none is that small."""
    return padded(-(-400 // head_dim))


@dataclass(slots=True)
class Prompt:
    """A prefilled prompt. logits: (vocab,) behind its last token. state: per layer, the pair (keys, values), each
    (kv_heads, length, head_dim), or what the forward's own store takes."""

    logits: Tensor
    state: list[tuple[Tensor, Tensor]]


class Store(Protocol):
    """What the rows of a batch remember."""

    def admit(self, slots: NDArray[np.int64], prompt: Prompt) -> None:
        """Let rows ``slots`` (n,) start from ``prompt``."""
        ...

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        """Move rows ``source`` (n,) to rows ``target`` (n,), all at once; targets that are no sources are done."""
        ...

    def release(self, slots: NDArray[np.int64]) -> None:
        """Rows ``slots`` (n,) are done."""
        ...


class Forward(Protocol):
    vocab: int
    device: torch.device
    any_threads: bool
    """Whether a step's numbers are the same bits with any number of torch's threads, on a CPU."""

    def refresh(self) -> None:
        """Take over the module's present weights."""
        ...

    def store(self, rows: int, prompt_tokens: int, new_tokens: int) -> Store:
        """An empty store for ``rows`` rows, prompts and new tokens of at most these lengths."""
        ...

    def bytes_per_token(self) -> int:
        """Memory that one position of one row takes."""
        ...

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]: ...

    def step(self, store: Any, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        """Feed ``tokens`` (rows,) behind ``lengths`` (rows,) known positions; logits (rows, vocab), good
        until the next step."""
        ...


def buckets(prompts: Sequence[Sequence[int]]) -> list[tuple[int, list[int]]]:
    """(padded length, indices) of prompts to prefill together. A prompt's padded length follows from its own
    length alone, so its numbers are the same in any company."""
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(padded(len(prompt)), []).append(index)
    out = []
    for length, members in groups.items():
        count = max(1, PREFILL_TOKENS // length)
        out.extend((length, members[i : i + count]) for i in range(0, len(members), count))
    return out


def rectangle(prompts: Sequence[Sequence[int]], length: int, device: torch.device) -> Tensor:
    """Ids (prompts, length), padded on the right with 0."""
    return torch.tensor([[*p, *[0] * (length - len(p))] for p in prompts], device=device)


def on_device(array: NDArray[np.int64], length: int, device: torch.device) -> Tensor:
    """``array`` (n,) padded to (length,) with 0, as a tensor."""
    out = np.zeros(length, np.int64)
    out[: len(array)] = array
    return torch.from_numpy(out).to(device)


class KeyValues:
    """Keys and values of every layer, each (rows, kv_heads, positions, head_dim); unwritten positions are 0.

    Grows along the positions as they are needed, never past ``longest``.
    """

    def __init__(self, rows: int, longest: int, block: int):
        self.rows, self.block = rows, block
        self.longest = padded(longest, block)
        self.positions = 0
        self.layers: list[tuple[Tensor, Tensor]] = []

    def admit(self, slots: NDArray[np.int64], prompt: Prompt) -> None:
        if not self.layers:
            self.layers = [
                (
                    k.new_zeros(self.rows, k.shape[0], 0, k.shape[2]),
                    v.new_zeros(self.rows, v.shape[0], 0, v.shape[2]),
                )
                for k, v in prompt.state
            ]
        length = prompt.state[0][0].shape[1]
        self.reserve(length + 1)
        for (keys, values), (k, v) in zip(self.layers, prompt.state, strict=True):
            keys[slots, :, :length] = k
            values[slots, :, :length] = v

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        for keys, values in self.layers:
            keys[target] = keys[source]
            values[target] = values[source]

    def release(self, slots: NDArray[np.int64]) -> None:
        """Nothing to free: the next chain in a slot writes over it."""

    def reserve(self, positions: int) -> None:
        if positions <= self.positions:
            return
        self.positions = min(padded(max(positions, self.positions * 3 // 2), self.block), self.longest)
        for index, (keys, values) in enumerate(self.layers):
            self.layers[index] = (_longer(keys, self.positions), _longer(values, self.positions))


def _longer(old: Tensor, positions: int) -> Tensor:
    new = old.new_zeros(old.shape[0], old.shape[1], positions, old.shape[3])
    new[:, :, : old.shape[2]] = old
    return new


class _RowLayer(CacheLayerMixin):
    """A Hugging Face cache layer over `KeyValues`: each row writes at a position of its own."""

    is_sliding = False

    def __init__(self, store: KeyValues, index: int, lengths: Tensor, span: int):
        super().__init__()
        self.store, self.index, self.lengths, self.span = store, index, lengths, span
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        pass  # the store exists before the layer does

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.store.layers[self.index]
        rows = torch.arange(len(self.lengths), device=keys.device)
        keys[rows, :, self.lengths] = key_states[:, :, 0]
        values[rows, :, self.lengths] = value_states[:, :, 0]
        return keys[: len(rows), :, : self.span], values[: len(rows), :, : self.span]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.span, 0

    def get_seq_length(self) -> int:
        return self.span - 1

    def get_max_length(self) -> int:
        return self.span


@contextmanager
def _plain_attention(module: Any) -> Iterator[None]:
    """Attention by plain matrix products while on a CPU: in torch's fused kernel a row's last bits depend on the
    thread that it falls to."""
    config = module.config.get_text_config()
    before = config._attn_implementation
    try:
        if module.device.type == "cpu":
            config._attn_implementation = "eager"
        yield
    finally:
        config._attn_implementation = before


class CachedForward:
    """Any decoder with attention over keys and values, through its own forward method."""

    any_threads = False  # MKL and PyTorch's activations promise that for one number of threads only

    def __init__(self, module: Any):
        self.module = module
        self.device = module.device
        config = module.config.get_text_config()
        self.vocab = config.vocab_size
        self.shape = ModelShape.from_config(config)
        self.layer_types = set(getattr(config, "layer_types", None) or ())
        self.block = block(min(self.shape.head_dim, self.shape.value_head_dim))
        self.itemsize = torch.finfo(module.dtype).bits // 8
        # A prompt ends within the last MIN_ROWS positions of its bucket: no other logits are needed.
        partial = "logits_to_keep" in inspect.signature(module.forward).parameters
        self.keep = {"logits_to_keep": MIN_ROWS} if partial else {}

    def refresh(self) -> None:
        self.device = self.module.device

    def store(self, rows: int, prompt_tokens: int, new_tokens: int) -> KeyValues:
        return KeyValues(padded(rows), prompt_tokens + new_tokens, self.block)

    def bytes_per_token(self) -> int:
        shape = self.shape
        return shape.layers * shape.kv_heads * (shape.head_dim + shape.value_head_dim) * self.itemsize

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        out: dict[int, Prompt] = {}
        for length, members in buckets(prompts):
            cache: Any = DynamicCache()
            ids = rectangle([prompts[i] for i in members], length, self.device)
            with _plain_attention(self.module):
                logits = self.module(ids, past_key_values=cache, use_cache=True, **self.keep).logits
            skipped = length - logits.shape[1]
            for row, index in enumerate(members):
                end = len(prompts[index])
                state = [(layer.keys[row, :, :end], layer.values[row, :, :end]) for layer in cache.layers]
                out[index] = Prompt(logits[row, end - 1 - skipped], state)
        return [out[i] for i in range(len(prompts))]

    def step(self, store: KeyValues, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        rows, longest = len(tokens), int(lengths.max())
        ids, known = (on_device(array, padded(rows), self.device) for array in (tokens, lengths))
        store.reserve(longest + 1)
        span = padded(longest + 1, self.block)
        layers: list[Any] = [_RowLayer(store, i, known, span) for i in range(len(store.layers))]
        with _plain_attention(self.module):
            logits = self.module(
                ids[:, None],
                attention_mask=self._mask(known, span),
                position_ids=known[:, None],
                past_key_values=Cache(layers=layers),
                use_cache=True,
            ).logits
        return logits[:rows, -1]

    def _mask(self, lengths: Tensor, span: int) -> Any:
        """Which positions each row sees: (rows, span), or as added biases where a window has to be held too."""
        positions = torch.arange(span, device=lengths.device)[None]
        seen = positions <= lengths[:, None]
        window = max(self.shape.windows)
        if not window:
            return seen
        near = seen & (positions > lengths[:, None] - window)

        def bias(mask: Tensor) -> Tensor:
            lowest = torch.finfo(self.module.dtype).min
            return torch.zeros_like(mask, dtype=self.module.dtype).masked_fill_(~mask, lowest)[:, None, None]

        if "sliding_attention" in self.layer_types:
            return {"full_attention": bias(seen), "sliding_attention": bias(near)}
        return bias(near)


class _Sequences:
    """The ids of every row, (rows, positions): all that `WholeForward` remembers."""

    def __init__(self, rows: int, longest: int, device: torch.device):
        self.ids = torch.zeros(rows, longest, dtype=torch.long, device=device)

    def admit(self, slots: NDArray[np.int64], prompt: Prompt) -> None:
        ids = prompt.state[0][0]
        self.ids[slots, : len(ids)] = ids

    def move(self, source: NDArray[np.int64], target: NDArray[np.int64]) -> None:
        self.ids[target] = self.ids[source]

    def release(self, slots: NDArray[np.int64]) -> None:
        """Nothing to free: the next chain in a slot writes over it."""


class WholeForward:
    """Any causal model at all: no cache, every step reads the whole sequences. Slow, and always right."""

    any_threads = False

    def __init__(self, module: Any):
        self.module = module
        self.device = module.device
        self.vocab = module.config.get_text_config().vocab_size

    def refresh(self) -> None:
        self.device = self.module.device

    def store(self, rows: int, prompt_tokens: int, new_tokens: int) -> _Sequences:
        return _Sequences(rows, padded(prompt_tokens + new_tokens), self.device)

    def bytes_per_token(self) -> int:
        return self.vocab * 4  # the logits of the whole sequence are what takes room

    def prefill(self, prompts: Sequence[Sequence[int]]) -> list[Prompt]:
        out: dict[int, Prompt] = {}
        for length, members in buckets(prompts):
            ids = rectangle([prompts[i] for i in members], length, self.device)
            logits = self.module(ids, use_cache=False).logits
            for row, index in enumerate(members):
                end = len(prompts[index])
                out[index] = Prompt(logits[row, end - 1], [(ids[row, :end], ids[row, :end])])
        return [out[i] for i in range(len(prompts))]

    def step(self, store: _Sequences, tokens: NDArray[np.int64], lengths: NDArray[np.int64]) -> Tensor:
        rows = np.arange(len(tokens))
        store.ids[rows, lengths] = torch.from_numpy(tokens).to(self.device)
        ids = store.ids[: len(tokens), : padded(int(lengths.max()) + 1)]
        return self.module(ids, use_cache=False).logits[rows, lengths]


@torch.inference_mode()
def agrees(forward: Forward, module: Any) -> bool:
    """True if ``forward`` gives the module's own logits for two prompts of unequal length and two steps."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(forward.vocab, (n,), generator=generator).tolist() for n in (9, 5)]
    store = forward.store(2, 7, 2)
    prompts = forward.prefill([row[:-2] for row in rows])
    for slot, prompt in enumerate(prompts):
        store.admit(np.array([slot]), prompt)
    ours = [torch.stack([prompt.logits for prompt in prompts])]
    for back in (2, 1):
        tokens = np.array([row[-back] for row in rows])
        ours.append(forward.step(store, tokens, np.array([len(row) - back for row in rows])).clone())
    exact = module.dtype == torch.float32
    for slot, row in enumerate(rows):
        plain = module(torch.tensor([row], device=forward.device), use_cache=False).logits[0, -3:].float()
        mine = torch.stack([logits[slot] for logits in ours]).float()
        if (mine - plain).abs().max() > (2e-4 if exact else 5e-2) * (1 + plain.abs().max()):
            return False
    return True


def open_forward(module: Any) -> Forward:
    """The fastest `Forward` that gives the module's own numbers."""
    from reasoning.engines.cuda_forward import CudaForward
    from reasoning.engines.llama import LlamaForward

    if CudaForward.fits(module):
        try:
            on_gpu = CudaForward(module)
            if agrees(on_gpu, module):
                return on_gpu
            why = "its numbers are not the module's"
        except Exception as error:  # whatever a compiler raises: there is another way to the same numbers
            why = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        warnings.warn(f"Decoding by CUDA graphs is left out ({why}); sampling is slower.", stacklevel=2)
    if LlamaForward.fits(module):
        fast = LlamaForward(module)
        if agrees(fast, module):
            return fast
    try:
        cached = CachedForward(module)
        if agrees(cached, module):
            return cached
    except (UserError, TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        pass  # an architecture whose cache has another form; the plain forward pass below has none
    warnings.warn(
        f"{type(module).__name__} keeps no keys and values that rows could share: every step reads whole sequences, "
        "which is slow.",
        stacklevel=2,
    )
    return WholeForward(module)
