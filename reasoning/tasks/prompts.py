"""Prompt templates by name, and how an answer is stated under each. Knows no task and no chat format (that is the
tokenizer's)."""

from __future__ import annotations

from reasoning.errors import unknown

TEMPLATES = {
    "plain": "{question}",
    "qa": "Q: {question}\nA:",
    "boxed": "{question}\nPlease reason step by step, and put your final answer within \\boxed{}.",
    "stated": "{question}\nThink step by step, then finish with: The answer is <your answer>.",
    "tagged": "{question}\nThink step by step, and put your final answer within <answer></answer> tags.",
    "code": "{question}\n\nPut the whole program into one ```python block.",
    "function": "Complete this Python function. Put the whole function, with its imports, into one ```python "
    "block.\n\n```python\n{question}\n```",
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


def worked(template: str, work: str, answer: str) -> str:
    """A worked answer as ``template`` asks for it: the work, then the answer stated.

    >>> worked("boxed", "2+2=4.", "4")
    '2+2=4.\\nThe answer is \\\\boxed{4}.'
    """
    forms = {"boxed": f"The answer is \\boxed{{{answer}}}.", "tagged": f"<answer>{answer}</answer>"}
    final = forms.get(template, f"The answer is {answer}.")
    return f"{work.strip()}\n{final}" if work.strip() else final
