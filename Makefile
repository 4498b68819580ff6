# make demo      compute, verify and draw both kernels of the digits, in demo/
# make test      run the tests except those marked slow, system or cluster
# make test-all  run all tests
# make test-arm  run a part of the tests, or TESTS=…, in an emulated system of aarch64, as root
# make test-pythons  run the fast tests with each Python and the oldest dependencies, compare bits
# make lint      run ruff and mypy
# make bench     make the tables of bench/RESULTS.md and the pictures of the benchmarks
# make soak      make the table of kills, power failures and damage in bench/RESULTS.md
# make clean     remove the environments, the emulated system, demo/ and all caches
# The first use of a target installs the package in an environment: .venv-demo or .venv-test.

PYTHON ?= python3
# The number of processes that run tests: more than cores, since tests wait for signals and disks
WORKERS ?= 3
FAST = -m "not slow and not system and not cluster"
# The tests of machine code that emulation runs in bearable time; TESTS=tests runs all of $(FAST)
OF_MACHINE_CODE = tests/test_machine.py tests/test_sums.py \
  $(patsubst %,tests/engine/test_%.py,products transpose samples tile)
PYTEST = $(TEST)/python -m pytest -n $(WORKERS) --durations=10
DEMO := .venv-demo/bin
TEST := .venv-test/bin

.PHONY: demo test test-all test-arm test-pythons lint bench soak clean

demo: .venv-demo/ready
	@mkdir -p demo
	$(DEMO)/ntk-numba gram data/digits.npz:x -o demo/digits.h5 --depth 4 --b-std 0.1 --kernel ntk --kernel nngp
	$(DEMO)/ntk-numba verify demo/digits.h5 --data data/digits.npz:x
	$(DEMO)/ntk-numba plot demo/digits.h5 -o demo/digits.png --labels data/digits.npz:y

test: .venv-test/ready
	$(PYTEST) --dist worksteal $(FAST)

test-all: .venv-test/ready
	$(PYTEST) --dist loadgroup

test-arm:
	PYTHON=$(PYTHON) tests/arm/emulate.sh \
	  python -m pytest --timeout=6000 --durations=10 $(FAST) \
	  $(or $(TESTS),$(OF_MACHINE_CODE))

# ONLY="3.13 3.14" takes some environments, TESTS="tests/gramfile -k lease" some tests
test-pythons: .venv-test/ready
	$(TEST)/python tests/pythons.py $(if $(ONLY),--only $(ONLY)) --tests "$(TESTS)"

lint: .venv-test/ready
	$(TEST)/ruff format --check .
	$(TEST)/ruff check .
	$(TEST)/mypy

bench: .venv-test/ready
	$(TEST)/python -m bench

soak: .venv-test/ready
	$(TEST)/python -m bench soak

.venv-demo/ready: EXTRAS := [plot]
.venv-test/ready: EXTRAS := [test,lint,pythons]
.venv-%/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e ".$(EXTRAS)"
	@touch $@

clean:
	tests/arm/emulate.sh --clean
	rm -rf .venv-demo .venv-test .venv-peers .venv-3.* demo .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
