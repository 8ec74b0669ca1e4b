"""Small byte-level tokenizers trained here, with chat templates in the forms that well-known families use."""

from functools import lru_cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is 2 plus 2? Please reason step by step, and put your final answer in a box.",
    "You are a careful assistant. Be brief. The answer is 4. Let me think about it.",
    "system user assistant model question answer",
]
SPECIAL = ["<s>", "</s>", "<|turn|>", "<|end|>", "<pad>"]

HEADERS = """{{ bos_token }}{% for m in messages %}<|turn|>{{ m['role'] }}

{{ m['content'] | trim }}<|end|>{% endfor %}{% if add_generation_prompt %}<|turn|>assistant

{% endif %}"""
"""Llama-3's form: a header for each turn, the beginning of the sequence written by the template."""

DATED = HEADERS.replace(
    "{{ bos_token }}",
    "{{ bos_token }}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "<|turn|>system\n\nToday: {{ date_string }}<|end|>",
)
"""Llama-3.1's: with today's date."""

THINKING = """{% for m in messages %}<|turn|>{{ m['role'] }}
{{ m['content'].split('</think>')[-1].lstrip('\\n') if m['role'] == 'assistant' else m['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|turn|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% endif %}{% endif %}"""
"""Qwen3's: thoughts of earlier turns are dropped, enable_thinking=false closes the thoughts at once."""

OPENING = THINKING.replace("{% if enable_thinking", "<think>\n{% if enable_thinking", 1)
"""A distilled reasoner's: the template opens the thoughts."""

NO_SYSTEM = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages -%}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}<|turn|>
{{- 'model' if m['role'] == 'assistant' else m['role'] }}
{{ m['content'] | trim }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|turn|>model
{% endif %}"""
"""Gemma's: no system prompt, turns must alternate."""

BRACKETS = """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]
{%- elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"""
"""Mistral's: system prompts are silently dropped, and nothing is added for the model's turn."""

DEFAULT_SYSTEM = """{% if messages[0]['role'] != 'system' %}<|turn|>system
You are a careful assistant who was made by somebody.<|end|>
{% endif %}{% for m in messages %}<|turn|>{{ m['role'] }}
{{ m['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|turn|>assistant
{% endif %}"""
"""Qwen2.5's: a system prompt of its own where none is given."""


@lru_cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer.to_str()


def make_tokenizer(template: str | None = None, adds_begin: bool = True) -> PreTrainedTokenizerFast:
    """adds_begin: plain text begins with <s>, as Llama's and Gemma's does."""
    inner = Tokenizer.from_str(_trained())
    if adds_begin:
        begin = ("<s>", inner.token_to_id("<s>"))
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens=["<|turn|>", "<|end|>"],
    )
    tokenizer.chat_template = template
    return tokenizer
