"""The pool against a dictionary: random sequences of writes, seals, kills and other writers."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from reasoning.pool import Pool
from reasoning.records import Chain, Problem, Sampling, chain_key
from verifiers import Verdict

PROBLEMS = [Problem.make(f"problem {i}", i) for i in range(3)]
SAMPLINGS = [Sampling(seed=0), Sampling(seed=1, stop=("#", ","))]


def make(problem: int, index: int, sampling: int, text: str) -> Chain:
    p, s = PROBLEMS[problem], SAMPLINGS[sampling]
    key = chain_key("m@1", s, p.id, p.prompt, index)
    return Chain(p.id, index, text, (index,), (-0.25,), (1, 2), model="m@1", sampling=s, key=key)


chains = st.builds(
    make, st.integers(0, 2), st.integers(0, 3), st.integers(0, 1), st.text("ab\n☃", max_size=5)
)
verdicts = st.builds(Verdict, st.none() | st.floats(0, 1), st.none() | st.text("xy", max_size=2))


class PoolMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.pool = Pool.open(self.path, segment_bytes=3000)
        self.pool.add_problems(PROBLEMS)
        self.chains: dict[str, Chain] = {}
        self.verdicts: dict[str, Verdict] = {}

    @rule(new=st.lists(chains, max_size=4))
    def append(self, new):
        self.pool.append(new)
        self.chains |= {c.key: c for c in new}

    @rule(chain=chains, verdict=verdicts)
    def judge(self, chain, verdict):
        self.pool.add_verdicts("v", {chain.key: verdict}, oracle=False)
        self.verdicts[chain.key] = verdict

    @rule()
    def seal(self):
        self.pool.seal()

    @rule()
    def close_and_open(self):
        self.pool.close()
        self.pool = Pool.open(self.path, segment_bytes=3000)

    @rule()
    def kill(self):
        if self.pool._file is not None:
            self.pool._file.close()  # the lock goes, the file stays: what a SIGKILL leaves
        self.pool = Pool.open(self.path, segment_bytes=3000)

    @rule(torn=st.binary(min_size=1, max_size=40))
    def kill_in_the_middle_of_a_write(self, torn):
        if self.pool._file is not None:
            with self.pool._file.path.open("ab") as f:
                f.write(torn.replace(b"\n", b""))
        self.kill()

    @rule(new=st.lists(chains, min_size=1, max_size=2))
    def another_writer(self, new):
        """One that starts later overrules what was written before it."""
        self.pool.close()
        with Pool.open(self.path) as other:
            other.add_problems(PROBLEMS)
            other.append(new)
        self.chains |= {c.key: c for c in new}
        self.pool.refresh()

    @invariant()
    def equals_the_dictionary(self):
        for pool in (self.pool, Pool.open(self.path, read_only=True)):
            order = {p.id: i for i, p in enumerate(PROBLEMS)}
            expected = sorted(
                self.chains.values(), key=lambda c: (order[c.problem_id], c.index, c.sampling.seed)
            )
            assert pool.chains() == expected
            assert pool.keys() == set(self.chains)
            assert pool.verdicts("v") == self.verdicts
            absent = make(0, 99, 0, "").key
            assert pool.missing([*self.chains, absent]) == [absent]
            assert list(pool.problems().values()) == PROBLEMS
            for sampling in SAMPLINGS:
                assert pool.chains(sampling=sampling) == [c for c in expected if c.sampling == sampling]

    def teardown(self):
        self.pool.close()
        shutil.rmtree(self.path)


PoolMachine.TestCase.settings = settings(max_examples=10, stateful_step_count=12, deadline=None)
TestPoolAgainstDictionary = PoolMachine.TestCase
