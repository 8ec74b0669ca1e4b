"""Two readings of an answer: the rule that makes them equal, or none. Knows nothing of responses or boxes."""

from __future__ import annotations

import re

from verifiers.expressions.compare import equal
from verifiers.expressions.nodes import Node
from verifiers.expressions.scalars import Tolerance
from verifiers.reading import Reading

_FIRST_LETTERS = frozenset("ABCDE")
"""A reference "C" is a choice, which a lower-case "(c)" names too."""


def _wordy(reading: Reading) -> bool:
    return reading.tree is None or reading.tree.kind == "text"


def _joined(words: str) -> str:
    """ "Alice, Bob and Carl" with one kind of joint."""
    return re.sub(r",? and |, *", ", ", words)


def _places(node: Node) -> int:
    return node.value[1] if node.kind == "decimal" else 0


def match(gold: Reading, answer: Reading, how: Tolerance) -> str | None:
    """The rule by which an answer equals the reference, or None."""
    if (
        gold.words
        and gold.words == answer.words
        and ((_wordy(gold) and _wordy(answer)) or gold.tree == answer.tree)
    ):
        return "text"
    if _wordy(gold) and _wordy(answer) and gold.words and _joined(gold.words) == _joined(answer.words):
        return "text"
    if gold.choice and answer.choice:
        return "choice" if gold.choice == answer.choice else None
    if gold.choice in _FIRST_LETTERS and answer.words == gold.choice.lower() == gold.words:
        return "choice"
    if gold.tree is None or answer.tree is None:
        return None
    left, right = gold.number, answer.number
    if left is not None and left == right:
        return "integer" if left.denominator == 1 else "rational"
    if gold.tree.kind == answer.tree.kind == "num" and not gold.more and not answer.more:
        return None
    if gold.tree.kind == "text" or answer.tree.kind == "text":
        if gold.tree.kind == answer.tree.kind:
            if gold.words != answer.words and set(gold.words + answer.words) <= set("xyz"):
                return next(
                    (rule for g in gold.more for a in answer.more if (rule := equal(g, a, how))), None
                )
            return "text" if _joined(gold.words) == _joined(answer.words) else None
        pairs = [(g, a) for g in (gold.tree, *gold.more) for a in (answer.tree, *answer.more)]
    else:
        pairs = [(gold.tree, answer.tree)]
        pairs += [(gold.tree, o) for o in answer.more if gold.tree.kind != "list" or o.kind == "list"]
        pairs += [(g, answer.tree) for g in gold.more if g.kind == answer.tree.kind == "list"]
        if answer.tree.kind != "list":  # a reference "1,2" is two numbers, never 1.2; "1,25" may be either
            two = gold.tree.kind == "list"
            pairs += [(other, answer.tree) for other in gold.more if not two or _places(other) > 1]
    for one, other in pairs:
        rule = equal(one, other, how) if "text" not in (one.kind, other.kind) else None
        if rule:
            return rule
    if not any(len(name) > 1 for name in gold.tree.variables() | answer.tree.variables()):
        return None
    left, right = _apart(gold.tree, answer.tree), _apart(answer.tree, gold.tree)
    return equal(left, right, how) if (left, right) != (gold.tree, answer.tree) else None


def _apart(node: Node, other: Node) -> Node:
    """``node`` with "RC" as the product of R and C, where these letters also stand alone in it or in the other."""
    names = node.variables()
    letters = names | other.variables()
    for name in names:
        if 1 < len(name) <= 4 and name.isupper() and name.isalpha() and set(name) <= letters:
            product = Node("var", name[0])
            for letter in name[1:]:
                product = Node("mul", None, (product, Node("var", letter)))
            node = node.substitute(name, product)
    return node
