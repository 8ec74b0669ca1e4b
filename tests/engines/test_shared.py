"""Products and attention of the embedded engine on a CPU: right, and the same bits in any company."""

import numpy as np
import pytest
import torch

from reasoning.engines.forward import Prompt, padded
from reasoning.engines.products import added, linear, onednn, packed, silu
from reasoning.engines.shared import PAGE, SharedKeyValues

ROWS = [16, 32, 48, 96, 160, 400, 512, 1008]


@pytest.fixture
def _same_threads_after():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_same_threads_after")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("inputs", "outputs"), [(128, 256), (384, 128), (100, 70), (768, 1280), (2048, 768)])
def test_a_product_is_right_and_its_rows_do_not_depend_on_the_others(inputs, outputs, threads):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1024, n, generator=generator) for n in (inputs, outputs))
    plain = torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)
    kinds = [plain, (plain[0], None)]
    if onednn(x.device, x.dtype):
        kinds += [packed(weights) for weights in kinds]
    with torch.inference_mode():
        for matrix, bias in kinds:
            whole, sums = linear(x, (matrix, bias)), added(y, x, (matrix, bias))
            exact = x.double() @ plain[0].double().t() + (0 if bias is None else bias)
            torch.testing.assert_close(whole.double(), exact, atol=1e-3, rtol=1e-5)
            torch.testing.assert_close(sums.double(), exact + y, atol=1e-3, rtol=1e-5)
            for rows in ROWS:
                start = min(16, 1024 - rows)
                part = slice(start, start + rows)
                assert torch.equal(linear(x[part], (matrix, bias)), whole[part])
                assert torch.equal(added(y[part], x[part], (matrix, bias)), sums[part])
        for (matrix, bias), (other, _) in zip(kinds[:2], kinds[2:], strict=False):  # packing changes no bit
            assert torch.equal(linear(x, (matrix, bias)), linear(x, (other, bias)))


@pytest.mark.usefixtures("_same_threads_after")
@pytest.mark.parametrize("n", [700, 2100, 2048])
def test_an_activation_is_right_and_its_rows_do_not_depend_on_the_others_or_the_threads(n):
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(208, 2 * n, generator=generator)
    gate = both[:, :n]
    torch.set_num_threads(1)
    whole = silu(gate)
    torch.testing.assert_close(whole.double(), gate.double() * gate.double().sigmoid(), atol=1e-6, rtol=1e-6)
    plain_differs = False
    for threads in (2, 3, 4, 5, 6, 8, 16):
        torch.set_num_threads(threads)
        for rows in (16, 32, 48, 64, 112, 160, 208):
            assert torch.equal(silu(gate[:rows]), whole[:rows])
            assert torch.equal(silu(gate[:rows].contiguous()), whole[:rows])
            plain_differs |= not torch.equal(torch.nn.functional.silu(gate[:rows]), whole[:rows])
    if n == 2100 and onednn(both.device, both.dtype) and torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert plain_differs  # or PyTorch has mended it, and `silu` can go


@pytest.mark.parametrize(("heads", "queries", "size"), [(2, 4, 32), (1, 7, 16), (3, 3, 80)])
@torch.inference_mode()
def test_rows_that_come_grow_move_and_go_attend_to_their_own_positions(heads, queries, size):
    """Against attention over each row's keys and values kept in lists."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    rows, layers, prompt_tokens, new_tokens = 20, 2, 70, 3 * PAGE
    store = SharedKeyValues(rows, prompt_tokens + new_tokens, heads, queries, [torch.zeros(0, size)] * layers)
    known: list = [None] * rows  # per row and layer: keys and values (H, positions, d)
    for step in range(150):
        free = [row for row in range(rows) if known[row] is None]
        if len(free) > 5 or step == 0:
            length = int(rng.choice([1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, prompt_tokens]))
            prompt = Prompt(
                random(1), [(random(heads, length, size), random(heads, length, size)) for _ in range(layers)]
            )
            slots = np.array(free[: int(rng.integers(1, len(free)))])
            store.admit(slots, prompt)
            for slot in slots:
                known[slot] = [list(pair) for pair in prompt.state]
        if step % 7 == 3:  # the last row moves into the first hole
            holes = [row for row in range(rows) if known[row] is None]
            last = max(row for row in range(rows) if known[row] is not None)
            if holes and holes[0] < last:
                store.move(np.array([last]), np.array([holes[0]]))
                known[holes[0]], known[last] = known[last], None
        used = 1 + max(row for row in range(rows) if known[row] is not None)
        lengths = np.array([0 if k is None else k[0][0].shape[1] for k in known[:used]])
        total = padded(used)
        store.begin(lengths, total)
        for layer in range(layers):
            both, values = random(total, queries + heads, size), random(total, heads, size)
            attended = store.attend(layer, both, values, 0.3).view(total, queries, size)
            for row in range(used):
                if known[row] is None:
                    continue
                pair = known[row][layer]
                pair[0] = torch.cat([pair[0], both[row, queries:, None]], 1)
                pair[1] = torch.cat([pair[1], values[row, :, None]], 1)
                q = both[row, :queries].view(heads, -1, size)
                weights = (0.3 * q.double() @ pair[0].double().transpose(1, 2)).softmax(-1)
                expected = (weights @ pair[1].double()).view(queries, size)
                torch.testing.assert_close(attended[row].double(), expected, atol=2e-5, rtol=1e-5)
        over = [
            row
            for row in range(used)
            if known[row] is not None
            and (known[row][0][0].shape[1] >= prompt_tokens + 2 * PAGE or rng.random() < 0.03)
        ]
        if len(over) == sum(k is not None for k in known):
            over = over[1:]
        if over:
            store.release(np.array(over))
            for row in over:
                known[row] = None
    store.release(np.array([row for row in range(rows) if known[row] is not None]))
    assert len(store.free) == store.touched - 1  # every page but the spare one has come back
