# On a bare machine with python3.11, pip, git and make: `make demo` and `make test` do everything.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := build/demo

# Where Python may not keep what it compiled, every process of the tests compiles torch and transformers anew: 13 s instead of 5 s each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test test-ci test-all lint types wheel docs chaos dist ci clean

setup: $(READY)

# torch first and by itself: its pinned build must be there before anything else asks for a torch. Python compiles a module when it is
# first imported; compiling all of them here would take as long as installing them. PYTHONWARNINGS: setuptools talks of editable installs.
INSTALL := $(BIN)/python -m pip install -q --no-compile -c constraints.txt
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) pip setuptools wheel
	$(INSTALL) torch
	PYTHONWARNINGS=ignore $(INSTALL) -e '.[dev]'
	touch $@

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/textsmooth-gen --corpus demo --teacher demo --out $(DEMO)/dataset
	$(BIN)/textsmooth inspect $(DEMO)/dataset --row 0 --row 3 --row 7
	$(BIN)/textsmooth student --from demo --layers 0,1 --out $(DEMO)/student
	$(BIN)/textsmooth-train $(DEMO)/dataset --student $(DEMO)/student --out $(DEMO)/trained --epochs 3 --lr 5e-4

# What is in which tier, and how long each takes: docs/testing.md.
PYTEST := $(BIN)/python -m pytest -n 2
test: $(READY)
	$(PYTEST) --dist worksteal

# What .ci/run adds: one test of each kind that takes long (Ray, processes of their own, chaos, a browser, commands of the docs).
test-ci: $(READY)
	$(PYTEST) --dist loadfile -m '(ci or browser) and not slow'

# Everything, with all examples of Hypothesis.
test-all: $(READY)
	$(PYTEST) --dist loadfile -m '' --hypothesis-profile full

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo

# Type checkers cannot follow an editable install: they read the built wheel, unpacked. What mypy knows is kept in build/mypy.
SITE := build/types/site
types: $(READY)
	rm -rf build/types && mkdir -p build/types
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation --wheel-dir build/types .
	$(BIN)/python -m zipfile -e build/types/*.whl $(SITE)
	cd $(SITE) && MYPYPATH=. ../../../$(BIN)/mypy --config-file ../../../pyproject.toml --cache-dir ../../mypy \
		-p textsmooth.schemas -p textsmooth.stages -p textsmooth.pipeline

# The wheel as a user gets it: another folder, nothing of the checkout on the path, demo data inside.
wheel: types
	cd build/types && rm -rf dataset && ../../$(BIN)/python -c "\
import sys; sys.path.insert(0, 'site'); \
import textsmooth.schemas, textsmooth.pipeline.cli.gen as c, textsmooth.pipeline.cli.app as m; \
assert all('types/site' in x.__path__[0] for x in (textsmooth.schemas, textsmooth.pipeline)); \
sys.exit(m.run(c.gen, 'textsmooth-gen', ['--corpus', 'demo', '--limit', '64', '--out', 'dataset', '--progress', 'none']))"

# Drivers, workers, raylets and nodes killed at random moments on a real Ray cluster; CI has a short form of it.
ROUNDS ?= 50
chaos: $(READY)
	$(BIN)/python tests/support/chaos.py --rounds $(ROUNDS)

# Every command that the docs show.
docs: $(READY)
	$(PYTEST) --dist loadfile -m docs

# What a release consists of, built reproducibly and tried in an empty environment.
dist: $(READY)
	$(BIN)/python .ci/dist.py

ci: lint wheel demo test test-ci

clean:
	rm -rf $(VENV) build dist *.egg-info
