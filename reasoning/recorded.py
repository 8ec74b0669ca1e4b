"""Read recorded model outputs into a pool by a mapping of columns, and compare their labels with a verifier.

A mapping is ``field=path`` pairs. A path reaches into a row: ``gt``, ``infos[0].r``, and with ``[]`` into
every
element of a list: one value per response.

    question=question,answer=gt,response=response[],label=score[],score.rm=pred_score[][0]
    question=question,answer=expected_answer,response=completions[].full_model_response,label=completions[].score
    question=question,answer=gold,response=samples[].answer,model=samples[].model
    question=question,answer=ground_truth,response=6b_finetuning.solution,model='6b'

question      what was asked (required)              answer      the reference
response      the model's text (required)            index       sample index of the response, or of the row
(below) model         what wrote it; 'text' is a constant    finish      finish reason ("stop", "length")
label         right or wrong, by the publisher       score, score.NAME   scores that were recorded with it
meta.NAME     metadata of the problem (what its verifier needs: numbers, target, ...)

Responses of a list are numbered by their place in it; an index that belongs to such a row as a whole becomes
the problem's metadata "index". It knows no publisher's format by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from reasoning.agreement import LABEL, Agreement, agreement
from reasoning.errors import UserError, unknown
from reasoning.pool import Pool
from reasoning.pool.admission import as_float, is_count, short
from reasoning.pool.export import dataset_rows, is_plain, noun_of
from reasoning.records import Chain, Problem, Sampling, chain_key
from reasoning.sampling import VerifyReport, verify
from reasoning.tasks.rows import LIKELY, READERS, read_jsonl, read_rows, text_of
from verifiers.base import Attempt, Verdict, Verifier

RECORDED = "recorded:"
"""Prefix of the verdicts that recorded scores become: deployable, they were given without the reference."""

_FIELDS = ("question", "answer", "response", "index", "model", "finish", "label", "score")
_RESTORED_AT_ONCE = 4096
_PART = re.compile(r"([^.\[\]]+)|\[(\d*)\]|\.")


@dataclass(frozen=True, slots=True)
class ColumnPath:
    """A path into a row, or a constant. steps: names, positions, and None for "each element"."""

    text: str
    steps: tuple[str | int | None, ...] = ()
    constant: str | None = None

    @classmethod
    def parse(cls, text: str) -> ColumnPath:
        """Raises UserError for a malformed path or more than one ``[]``."""
        if len(text) >= 2 and text[0] == text[-1] == "'":
            return cls(text, constant=text[1:-1])
        steps: list[str | int | None] = []
        at = 0
        while at < len(text):
            match = _PART.match(text, at)
            if match is None:
                raise UserError(f"Malformed path {text!r}: write names, dots, [2] and [], as in a.b[].c[0].")
            at = match.end()
            name, position = match.group(1), match.group(2)
            if name is not None:
                steps.append(name)
            elif position is not None:
                steps.append(int(position) if position else None)
        if not steps or steps.count(None) > 1:
            raise UserError(f"Path {text!r} needs a name, and at most one [].")
        return cls(text, tuple(steps))

    @property
    def many(self) -> bool:
        return None in self.steps

    def read(self, row: Mapping[str, Any], where: str) -> Any:
        """The value in a row; a list of values where the path has ``[]``. Raises UserError naming
        ``where``."""
        if self.constant is not None:
            return self.constant
        return self._follow(row, self.steps, row, where)

    def _follow(
        self, value: Any, steps: Sequence[str | int | None], row: Mapping[str, Any], where: str
    ) -> Any:
        for number, step in enumerate(steps):
            if step is None:
                if not isinstance(value, list):
                    raise UserError(
                        f"{where}: {self.text!r} expects a list, found {type(value).__name__}; leave the [] out."
                    )
                return [self._follow(v, steps[number + 1 :], row, where) for v in value]
            if isinstance(step, str) and isinstance(value, Mapping) and step in value:
                value = value[step]
                continue
            if isinstance(step, int) and isinstance(value, list) and step < len(value):
                value = value[step]
                continue
            if isinstance(value, list):
                before = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in self.steps[:number])[1:]
                raise UserError(
                    f"{where}: {before!r} is a list of {len(value)}: write '{before}[]' for one response per "
                    f"element, or '{before}[0]'."
                )
            columns = column_paths(row)
            raise unknown("column", self.text, columns, see=f"{where} has: {', '.join(columns)}")
        return value


def column_paths(row: Mapping[str, Any], prefix: str = "", depth: int = 3) -> list[str]:
    """How a mapping names what a row holds: ``gt``, ``info.level``, ``response[]``, ``completions[].text``."""
    out: list[str] = []
    for key, value in row.items():
        name, many = f"{prefix}{key}", isinstance(value, list)
        first = value[0] if many and value else value
        if isinstance(first, Mapping) and depth > 1:
            out += column_paths(first, f"{name}{'[]' * many}.", depth - 1)
        else:
            out.append(name + "[]" * many)
    return out


_LIKELY: Mapping[str, tuple[str, ...]] = {
    **LIKELY,
    "response": ("response", "responses", "output", "outputs", "completion", "completions", "generation",
                 "generations", "prediction", "predictions", "text", "samples"),
}  # fmt: skip
"""Names that columns often have, to suggest a mapping by; nothing is read by them."""


def suggestion(row: Mapping[str, Any]) -> str:
    """A mapping that may fit a row, in quotes for a shell; COLUMN where no name gives it away."""
    columns = column_paths(row)

    def likely(field: str) -> str:
        for name in _LIKELY[field]:
            for column in columns:
                if name in (column.removesuffix("[]"), column.partition("[]")[0]):
                    return column
        return "COLUMN"

    return "'" + ",".join(f"{field}={likely(field)}" for field in _LIKELY) + "'"


@dataclass(frozen=True, slots=True)
class RowMapping:
    """Where each field is found in a row. metadata, scores: by name."""

    fields: Mapping[str, ColumnPath]
    metadata: Mapping[str, ColumnPath]
    scores: Mapping[str, ColumnPath]

    @property
    def row_index(self) -> ColumnPath | None:
        """The index, where it numbers the row and not the response."""
        index = self.fields.get("index")
        return index if index and self.fields["response"].many and not index.many else None

    @classmethod
    def parse(cls, text: str) -> RowMapping:
        """Raises UserError for an unknown, repeated, missing or malformed field."""
        fields: dict[str, ColumnPath] = {}
        metadata: dict[str, ColumnPath] = {}
        scores: dict[str, ColumnPath] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, equals, value = part.partition("=")
            if not equals:
                raise UserError(f"Malformed mapping {part!r}: write field=path, separated by commas.")
            kind, _, rest = name.partition(".")
            table = {"meta": metadata, "score": scores}.get(kind) if rest or name == "score" else fields
            if table is None or (table is fields and name not in _FIELDS):
                raise unknown("field of a mapping", name, [*_FIELDS, "meta.NAME", "score.NAME"])
            if (key := rest or name) in table:
                raise UserError(f"Field {name!r} is given twice in {text!r}.")
            table[key] = ColumnPath.parse(value)
        for name in ("question", "response"):
            if name not in fields:
                raise UserError(f"The mapping {text!r} does not say where the {name} is: add {name}=COLUMN.")
        for name in ("question", "answer"):
            if name in fields and fields[name].many:
                raise UserError(
                    f"{name}={fields[name].text}: a row holds one problem, so there is no [] here."
                )
        return cls(fields, metadata, scores)


@dataclass(slots=True)
class ImportReport:
    """What `import_rows` read. chains: new ones; present: there before; empty: responses that were null.
    squashed: recorded scores that were not in [0, 1] and went through the logistic function (their order,
    which best-of-n goes by, stays)."""

    rows: int = 0
    problems: int = 0
    chains: int = 0
    present: int = 0
    empty: int = 0
    models: list[str] = field(default_factory=list)
    squashed: list[str] = field(default_factory=list)
    verified: VerifyReport | None = None
    agreement: Agreement | None = None


def import_rows(
    source: str | Path | Iterable[Mapping[str, Any]],
    mapping: str | Sequence[str],
    pool: Pool,
    *,
    model: str = "",
    sampling: Sampling | None = None,
    task: str = "recorded",
    verifier: Verifier | None = None,
) -> ImportReport:
    """Read rows (a JSONL, JSON, Parquet or CSV file, the folder of a data set, or objects) into ``pool``: problems,
    chains, labels and recorded scores.

    mapping: one, or several that are each applied to every row (a row with the outputs of several models); none
    for rows that a pool's export wrote, which come back as they were, keys included.
    model: of responses whose mapping names none; by default the file's name. sampling: how they were drawn,
    as far as it is known. Recorded chains have no token ids, and token counts of 0.
    verifier: judges the chains afterwards; where there are labels, the agreement is reported.

    Reading a file twice changes nothing. Raises UserError that names the line for anything malformed; nothing
    is stored then.
    """
    mappings = [RowMapping.parse(m) for m in ([mapping] if isinstance(mapping, str) else mapping)]
    if not mappings:
        return _restore(_rows(source), pool, verifier)
    sampling = sampling or Sampling()
    named = model or (Path(source).stem if isinstance(source, str | Path) else "recorded")
    read = _Reader(named, sampling, task)
    for where, row in _rows(source):
        read.report.rows += 1
        for m in mappings:
            read.row(row, m, where)
    if not read.chains:
        raise UserError(f"{source if isinstance(source, str | Path) else 'The rows'}: no responses found.")
    report = read.report
    report.problems, report.models = len(read.problems), sorted({c.model for c in read.chains.values()})
    pool.add_problems(read.problems.values())
    for name in report.models:
        if not pool.models().get(name):
            pool.add_model(name, {"recorded": True})
    missing = pool.missing(list(read.chains))
    report.chains, report.present = len(missing), len(read.chains) - len(missing)
    pool.append([read.chains[key] for key in missing])
    for name, table in read.verdicts.items():
        if name != LABEL:
            report.squashed += [name] * _squash(table)
        known = pool.verdicts(name)
        changed = {key: v for key, v in table.items() if known.get(key) != v}
        pool.add_verdicts(name, changed, oracle=name == LABEL)
    if verifier is not None:
        report.verified = verify(pool, verifier, again=False)
        if LABEL in read.verdicts:
            report.agreement = agreement(pool, verifier.name, keys=set(read.chains))
    return report


def _rows(source: str | Path | Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if not isinstance(source, str | Path):
        yield from ((f"row {number}", row) for number, row in enumerate(source, 1))
    elif Path(source).is_dir():
        yield from dataset_rows(Path(source))
    elif Path(source).suffix.lower() in READERS:
        yield from read_rows(source)
    else:
        yield from ((f"{source}, line {number}", row) for number, row in read_jsonl(source))


def _restore(
    rows: Iterator[tuple[str, Mapping[str, Any]]], pool: Pool, verifier: Verifier | None
) -> ImportReport:
    """Take in rows that `export` wrote, some thousand at a time."""
    report, models, ids = ImportReport(), set(), set()
    judged_before: dict[str, set[str]] = {}
    while some := list(islice(rows, _RESTORED_AT_ONCE)):
        nouns = []
        for where, row in some:
            if not is_plain(dict(row)):
                raise UserError(
                    f"{where}: say where its fields are, such as  --map {suggestion(row)}  (it has: "
                    f"{', '.join(column_paths(row))}; [] takes each element of a list)."
                )
            nouns.append(noun_of(dict(row), where))
        report.rows += len(nouns)
        pool.add_problems(problem for problem, _, _ in nouns)
        ids.update(problem.id for problem, _, _ in nouns)
        models.update(chain.model for _, chain, _ in nouns)
        try:
            missing = set(pool.missing([chain.key for _, chain, _ in nouns]))
            pool.append([chain for _, chain, _ in nouns if chain.key in missing])
        except ValueError as e:
            raise UserError(f"{some[0][0]} and following: {e}.") from None
        report.chains += len(missing)
        report.present += len(nouns) - len(missing)
        verdicts: dict[tuple[str, bool], dict[str, Verdict]] = {}
        for _, chain, judged in nouns:
            if judged is not None:
                verdicts.setdefault(judged[:2], {})[chain.key] = judged[2]
        for (name, oracle), table in verdicts.items():
            if name not in judged_before:
                judged_before[name] = set(pool.verdicts(name))
            new = {k: v for k, v in table.items() if k not in judged_before[name]}
            pool.add_verdicts(name, new, oracle=oracle)
    if not report.rows:
        raise UserError("No rows found.")
    report.problems, report.models = len(ids), sorted(models)
    if verifier is not None:
        report.verified = verify(pool, verifier, again=False)
    return report


class _Reader:
    """Collects what rows hold."""

    def __init__(self, model: str, sampling: Sampling, task: str):
        self.model = model
        self.sampling = sampling
        self.task = task
        self.report = ImportReport()
        self.problems: dict[str, Problem] = {}
        self.chains: dict[str, Chain] = {}
        self.verdicts: dict[str, dict[str, Verdict]] = {}
        self._next: dict[tuple[str, str], int] = {}

    def row(self, row: Mapping[str, Any], mapping: RowMapping, where: str) -> None:
        problem = self._problem(row, mapping, where)
        columns = {n: p for n, p in mapping.fields.items() if n not in ("question", "answer")}
        if mapping.row_index is not None:
            del columns["index"]
        columns |= {RECORDED + n: p for n, p in mapping.scores.items()}
        values = {name: path.read(row, where) for name, path in columns.items()}
        lengths = {path.text: len(values[name]) for name, path in columns.items() if path.many}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{where}: lists of different lengths: {lengths}.")
        if lengths and not columns["response"].many:
            raise UserError(f"{where}: {next(iter(lengths))!r} has a list for one response.")
        for i in range(next(iter(lengths.values()), 1)):
            one = {name: values[name][i] if columns[name].many else values[name] for name in columns}
            self._response(problem, one, f"{where}, response {i}" if lengths else where)

    def _problem(self, row: Mapping[str, Any], mapping: RowMapping, where: str) -> Problem:
        question = text_of(mapping.fields["question"].read(row, where), "question", where)
        reference = mapping.fields["answer"].read(row, where) if "answer" in mapping.fields else None
        metadata = {name: path.read(row, where) for name, path in mapping.metadata.items()}
        if mapping.row_index is not None:
            metadata["index"] = mapping.row_index.read(row, where)
        problem = Problem.make(question, reference, self.task, {"question": question, **metadata})
        return self.problems.setdefault(problem.id, problem)

    def _response(self, problem: Problem, values: Mapping[str, Any], where: str) -> None:
        text = values["response"]
        model = self.model if values.get("model") is None else str(values["model"])
        index = values.get("index", self._next.get((problem.id, model), 0))
        if not is_count(index):
            raise UserError(f"{where}: index must be a whole number from 0 (below 2^63), not {short(index)}.")
        self._next[problem.id, model] = index + 1
        if text is None:
            self.report.empty += 1
            return
        if not isinstance(text, str):
            if isinstance(text, list):
                raise UserError(
                    f"{where}: response is a list of {len(text)}: write 'response=COLUMN[]' for one response per "
                    "element, or 'response=COLUMN[0]'."
                )
            text = (
                json.dumps(text) if isinstance(text, bool | int | float) else text_of(text, "response", where)
            )
        finish = values.get("finish") or "stop"
        if finish not in ("stop", "length"):
            raise UserError(f"{where}: finish must be 'stop' or 'length', not {finish!r}.")
        key = chain_key(model, self.sampling, problem.id, problem.prompt, index)
        if key in self.chains:
            raise UserError(
                f"{where}: response {index} of this question by {model!r} was there before; leave index out to "
                "number them as they come."
            )
        self.chains[key] = Chain(
            problem.id, index, text, finish_reason=finish, model=model, sampling=self.sampling, key=key
        )
        for name, value in values.items():
            if name == LABEL or name.startswith(RECORDED):
                verdict = _verdict(value, name == LABEL, f"{where}, {name.removeprefix(RECORDED)}")
                if verdict is not None:
                    self.verdicts.setdefault(name, {})[key] = verdict


def _verdict(value: Any, label: bool, where: str) -> Verdict | None:
    """A recorded label or score as a verdict; null and NaN are none."""
    if value is None:
        return None
    if isinstance(value, list):
        raise UserError(
            f"{where}: one response, but a list of {len(value)}: write 'COLUMN[]', its elements go with those of "
            "response."
        )
    number = as_float(value)
    if number is None or math.isinf(number):
        raise UserError(f"{where}: expected a number or true/false, found {short(value)}.")
    if math.isnan(number):
        return None
    if label and not 0 <= number <= 1:
        raise UserError(f"{where}: a label lies in [0, 1], found {value}. Scores are given as score=...")
    return Verdict(number, rule="recorded")


def _squash(table: dict[str, Verdict]) -> bool:
    """Take scores that are not in [0, 1] through the logistic function, all of them or none."""
    scores = {key: v.score for key, v in table.items() if v.score is not None}
    if all(0 <= s <= 1 for s in scores.values()):
        return False
    for key, s in scores.items():
        squashed = 1 / (1 + math.exp(-s)) if s > -700 else 0.0
        table[key] = Verdict(squashed, rule="recorded", reason=f"logistic of {s!r}")
    return True


class RecordedScores:
    """The scores ``recorded:NAME`` of a pool as a scorer for searches on it. Scores are looked up in the pool
    before a scorer is asked, so what it is asked for was not recorded and has no score."""

    oracle = False

    def __init__(self, name: str):
        self.name = name if name.startswith(RECORDED) else RECORDED + name

    def verify(self, attempts: Sequence[Attempt]) -> list[Verdict]:
        return [Verdict(None, status="not_recorded", reason=f"no {self.name} score") for _ in attempts]
