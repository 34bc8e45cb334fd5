# make demo: install, fetch the model and the text, run the needle test, show the table.
# make test: install, then lint, types, layers, docs and tests on transformers 4.57 and on 5.x.
# make test-fast: the part of the tests that takes under two minutes; make format: ruff's fixes.
# make docs: the site into build/docs/site, without a network; any warning is an error.
# make test-slurm: evaluations under a real SLURM on this machine (Debian's slurm-wlm, munge; root).
# TORCH chooses the build of PyTorch, PYTHON the interpreter (3.10 to 3.12).
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
BIN5 := .venv-tf5/bin
WORKERS ?= 2
# a worker has one thread; the tests of a file share its worker, and so their fixtures
PYTEST := -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# what a release of transformers can change; the longest first
METHOD_TESTS := tests/parallel tests/attention tests/cache tests/engine tests/methods \
	$(filter-out %/test_registry.py %/test_embedded_parts.py %/test_pip_settings.py, $(wildcard tests/checkpoints/test_*.py))
FAST_TESTS := tests/attention/test_hook.py tests/cache/test_layer.py tests/cli/test_start.py tests/docs/test_examples.py \
	tests/docs/test_variables.py tests/efficiency tests/engine/test_session.py tests/methods tests/report

# threads that wait must not spin: the tests start processes of their own
export OMP_WAIT_POLICY ?= PASSIVE

test test-fast: export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-fast test-slurm lint format docs clean

demo: .venv/installed
	$(BIN)/reattention-eval demo

# the second environment is installed beside the first one and lint
test:
	$(MAKE) -j2 lint .venv-tf5/installed
	$(BIN)/python $(PYTEST)
	$(BIN5)/python $(PYTEST) $(METHOD_TESTS)

test-fast: .venv/installed
	$(BIN)/python $(PYTEST) $(FAST_TESTS)

test-slurm: .venv/installed
	$(BIN)/python -m pytest -q -m slurm tests/slurm

lint: .venv/installed docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# a copy, so that links between README, docs and results are the files' own
docs: .venv/installed
	rm -rf build/docs
	mkdir -p build/docs/source
	cp -R README.md CONTRIBUTING.md CHANGELOG.md CITATION.cff docs results build/docs/source
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/installed: pyproject.toml constraints/transformers-4.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH) -c constraints/transformers-4.txt
	$(BIN)/pip install --quiet -e '.[demo,opencompass,scoring,report,baselines,dev,docs]' -c constraints/transformers-4.txt
	# it asks for numpy 2, which OpenCompass refuses; all else that it needs is in [baselines]
	$(BIN)/pip install --quiet --no-deps kvpress -c constraints/transformers-4.txt
	# only its LongBench metrics are read, by a test
	$(BIN)/pip install --quiet --no-deps lm_eval -c constraints/transformers-4.txt
	touch $@

.venv-tf5/installed: pyproject.toml constraints/transformers-5.txt
	$(PYTHON) -m venv .venv-tf5
	$(BIN5)/pip install --quiet --upgrade pip
	$(BIN5)/pip install --quiet $(TORCH) -c constraints/transformers-5.txt
	$(BIN5)/pip install --quiet -e '.[demo,dev]' -c constraints/transformers-5.txt
	touch $@

clean:
	rm -rf .venv .venv-tf5 build dist outputs
