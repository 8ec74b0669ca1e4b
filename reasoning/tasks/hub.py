"""Rows of a data set on the Hugging Face hub, or of a local copy of one, through ``datasets`` (extra "hub").

The one file that imports ``datasets``. Knows no benchmark and no problem.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from reasoning.errors import MissingExtra, UserError
from reasoning.hub import Absence, hub_or_cache, refusal
from reasoning.tasks.rows import Placed, plain

SHUFFLE_BUFFER_ROWS = 10_000


def in_random_order(
    rows: Iterable[Placed], seed: int, buffer_rows: int = SHUFFLE_BUFFER_ROWS
) -> Iterator[Placed]:
    """Rows that are never all at hand, each taken at random from a buffer: the same for the same seed, whatever
    the version of the library that reads them."""
    rng = random.Random(seed)
    buffer: list[Placed] = []
    for row in rows:
        if len(buffer) < buffer_rows:
            buffer.append(row)
            continue
        at = rng.randrange(buffer_rows)
        yield buffer[at]
        buffer[at] = row
    rng.shuffle(buffer)
    yield from buffer


def hub_rows(
    dataset: str,
    configs: Sequence[str | None] = (None,),
    split: str = "test",
    *,
    revision: str = "",
    streaming: bool = False,
    instead: str = "",
) -> Iterator[Placed]:
    """The rows of ``split`` ("train+test" for both) of each of ``configs``, one after the other.

    dataset: a hub id or the folder of a local copy. streaming: rows are fetched as they are read, nothing is kept on
    disk. instead: what to do without the hub, for the error.

    Raises MissingExtra, and UserError for what the hub does not have or cannot be reached.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingExtra("datasets", "hub", f"{dataset} from the hub") from None
    more: dict[str, Any] = {}
    if revision:
        more["revision"] = revision
    if streaming:
        more["streaming"] = True
    away: Absence | None = None
    for config in configs:
        try:
            with hub_or_cache(not Path(dataset).exists(), dataset, "dataset", revision) as away:
                loaded: Any = load_dataset(dataset, config, split=split, **more)
            place = f"{dataset} {config + ' ' if config else ''}{split}"
            for number, row in enumerate(loaded):
                yield f"{place}, row {number}", {key: plain(value) for key, value in row.items()}
        except (UserError, GeneratorExit):
            raise
        except Exception as error:  # the network, the hub's client and the file readers raise many kinds
            said = " ".join(str(error).split())
            if found := away or refusal(dataset, error):
                advice = found.advice(instead) if instead else found.advice()
                text = f"Could not get {dataset}: {found.why}. {advice}"
            elif isinstance(
                error, ValueError
            ):  # no such configuration or split: it lists those that there are
                text = f"{dataset}: {said[:300]}"
            else:
                text = f"Could not get {dataset} from the hub ({type(error).__name__})"
                text += f"; {instead}." if instead else f": {said[:200]}"
            raise UserError(text) from error
