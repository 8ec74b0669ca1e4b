"""Settings that hold for every test, made before torch is loaded."""

import os

# As the commands have it: where another process is busy, threads that spin make the tests twenty times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
