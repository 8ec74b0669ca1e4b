"""The number of threads: found by measuring, put back after each piece, without effect on the numbers."""

from __future__ import annotations

import statistics

import pytest

torch = pytest.importorskip("torch")

from reasoning.engines.products import linear, onednn, packed  # noqa: E402
from reasoning.engines.threads import LAST_WAIT, Threads, candidates, search  # noqa: E402


def pieces(counts, seconds, number):
    """The threads of each of ``number`` pieces, where n threads take ``seconds[n]``."""
    searching = search(counts)
    taken = [next(searching)]
    for _ in range(number - 1):
        taken.append(searching.send(seconds[taken[-1]]))
    return taken


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0, 6: 9.0}, 1),
        ({1: 1.0, 2: 0.6, 4: 0.9, 6: 2.0}, 2),
        ({1: 4.0, 2: 2.0, 4: 1.0, 6: 0.7}, 6),
        ({1: 1.0, 2: 30.0, 4: 30.0, 6: 30.0}, 1),  # threads spin for a core that another process has
    ],
)
def test_the_fastest_number_is_found_and_kept(seconds, best):
    taken = pieces([1, 2, 4, 6], seconds, 4000)
    assert statistics.mean(count == best for count in taken[60:]) > 0.95
    spent = sum(seconds[count] for count in taken[60:])
    assert spent < 1.15 * seconds[best] * len(taken[60:])


def test_more_threads_that_hardly_help_are_left_to_others():
    assert pieces([1, 2], {1: 1.0, 2: 0.97}, 100)[-1] == 1


def test_a_change_of_the_machine_is_noticed():
    searching = search([1, 2])
    count = next(searching)
    taken = []
    for piece in range(LAST_WAIT):
        taken.append(count)
        busy = piece < 200
        count = searching.send(1.0 if count == 1 else 20.0 if busy else 0.5)
    assert taken[199] == 1
    assert taken[-1] == 2


def test_candidates_are_powers_of_two_and_all():
    assert candidates(1) == [1]
    assert candidates(2) == [1, 2]
    assert candidates(6) == [1, 2, 4, 6]
    assert candidates(8) == [1, 2, 4, 8]


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_caller_finds_its_threads_again():
    threads = Threads()
    inside = set()
    for _ in range(20):
        with threads.working(8):
            inside.add(torch.get_num_threads())
        assert torch.get_num_threads() == 2
    assert inside == {1, 2}
    for _ in range(20):  # an error goes through, whatever the piece took
        with pytest.raises(ZeroDivisionError), threads.working(8):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("rows", [16, 48, 256])
@pytest.mark.parametrize(("inputs", "outputs"), [(128, 256), (384, 128), (768, 4096), (2048, 768)])
def test_products_have_the_same_bits_with_any_number_of_threads(rows, inputs, outputs):
    if not onednn(torch.device("cpu"), torch.float32):
        pytest.skip("oneDNN is not there; PyTorch's own products are not claimed to be the same")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, inputs, generator=generator)
    weights = packed((torch.randn(outputs, inputs, generator=generator), None))
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(linear(x, weights))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
