"""25 kills at random moments; ``python -m evals.pool_kills`` does 200."""

from evals.pool_kills import kill_again_and_again


def test_a_writer_that_is_killed_again_and_again_ends_with_the_undisturbed_pool(tmp_path):
    met = kill_again_and_again(tmp_path, 25, seed=1, chains=900)
    assert met.pop("runs compared") >= 1
    assert met.total() == 25
    assert len(met) > 1, "kills hit more than one kind of moment"
