"""Prompt templates by name. Knows no task, no chat format (that is the tokenizer's) and no answer."""

from __future__ import annotations

from reasoning.errors import unknown

TEMPLATES = {
    "plain": "{question}",
    "qa": "Q: {question}\nA:",
    "boxed": "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "stated": "{question}\nThink step by step, then finish with: The answer is <your answer>.",
}


def render(template: str, question: str) -> str:
    """The prompt for ``question``: ``template`` is a name of `TEMPLATES` or a text that holds "{question}".

    >>> render("qa", "What is 2+2?")
    'Q: What is 2+2?\\nA:'
    """
    text = TEMPLATES.get(template, template)
    if "{question}" not in text:
        raise unknown(
            "template",
            template,
            TEMPLATES,
            see="known: " + ", ".join(TEMPLATES) + ", or a text with {question}",
        )
    return text.replace("{question}", question)
