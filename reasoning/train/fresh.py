"""A model from nothing: random weights and a tokenizer built from a task's own text, saved as an ordinary
Hugging Face folder. For laptops, tests and demonstrations; a real run starts from a hub id or a folder.

Knows nothing of training: it only makes the empty model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reasoning.errors import UserError
from reasoning.spec import parse_spec

WORD = r" ?[A-Za-z]+|\d| ?[^A-Za-z\d]"
"""Words with their leading space, single digits (so that numbers are read digit by digit), single marks."""

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden": 128, "layers": 3, "heads": 4, "kv_heads": 2, "ffn": 384, "words": 256},
    "small": {"hidden": 256, "layers": 6, "heads": 8, "kv_heads": 4, "ffn": 768, "words": 512},
}


def is_fresh(model: str) -> bool:
    """True for ``new:SIZE`` specs such as ``new:tiny`` or ``new:tiny:layers=4``."""
    return model.split(":", 1)[0] == "new"


def build_tokenizer(texts: Iterable[str], words: int) -> Any:
    """A tokenizer with all printable ASCII characters and the most frequent words of ``texts``, at most
    ``words`` entries. A word outside the list is spelled in characters, so that decoding returns the text
    exactly for any ASCII input; other characters become <unk>."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = [chr(i) for i in range(32, 127)] + ["\n"]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *characters])}
    counts = Counter(piece for text in texts for piece in re.findall(WORD, text) if len(piece) > 1)
    room = max(words - len(vocabulary), 0)
    for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:room]:
        vocabulary[piece] = len(vocabulary)
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def new_model(spec: str, texts: Iterable[str], seed: int = 0) -> tuple[Any, Any]:
    """(model, tokenizer) for ``new:SIZE[:key=value,...]``: Qwen3-shaped, float32, tied embeddings.

    Raises UserError for an unknown size or key.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    parsed = parse_spec(spec)
    size = parsed.argument or "tiny"
    if size not in SIZES:
        raise UserError(f"Unknown model size {size!r} in {spec!r}; known sizes: {', '.join(SIZES)}.")
    shape = parsed.take(SIZES[size])
    if (
        min(shape.values()) < 1
        or shape["hidden"] % (2 * shape["heads"])
        or shape["heads"] % shape["kv_heads"]
    ):
        raise UserError(
            f"{spec!r}: every size is 1 or above, hidden a multiple of twice the heads, heads a multiple of kv_heads."
        )
    tokenizer = build_tokenizer(texts, shape["words"])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape["hidden"],
        intermediate_size=shape["ffn"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["hidden"] // shape["heads"],
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    return model, tokenizer


def plain_module(like: Any, weights: Mapping[str, Any]) -> Any:
    """A model of the kind and configuration of ``like``, whatever is wrapped around that, holding ``weights``: all of
    its parameters by name. They are not copied."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        made: Any = AutoModelForCausalLM.from_config(like.config, dtype=next(iter(weights.values())).dtype)
    kept = made.state_dict().keys()
    buffers = {name: buffer.cpu() for name, buffer in like.named_buffers() if name in kept}
    made.load_state_dict(buffers | dict(weights), strict=False, assign=True)
    made.tie_weights()
    made.generation_config = like.generation_config
    return made


def save_folder(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write ``folder`` as a Hugging Face checkpoint (safetensors) with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
