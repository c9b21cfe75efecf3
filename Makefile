# Everything sets itself up from Python 3.11+, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := clients/python clients/loadgen

# Where bytecode is not kept, as in many images, each of the hundreds of processes that the tests start compiles the
# package's three hundred files anew: a third of what a short command takes.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup lock kernels demo lint format test test-slow fidelity judges conformance fuzz-imports sim bench bench-mm plots stubs sync dashboards picture pictures dist clean

help: ## Say what there is to make.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready ## Make .venv with everything in it.

$(VENV)/.ready: requirements.lock pyproject.toml $(CLIENTS:%=%/pyproject.toml)
	@echo "setting up $(VENV) (about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation $(CLIENTS:%=-e %) -e .
	@touch $@

lock: setup ## Resolve the dependencies anew into requirements.lock.
	$(BIN)/python -m pip install -q uv
	$(BIN)/python deploy/lock.py

kernels: setup
	@$(BIN)/python -m numa_service.cli.compile

demo: setup ## Boot a machine on Ray, load it for 20 seconds, watch, tidy up.
	@$(BIN)/numa-service demo

lint: setup ## ruff, mypy, import-linter.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Let ruff format everything.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: kernels ## Every test but the slow ones.
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: kernels ## The long runs.
	$(BIN)/python -m pytest -m slow

# The captures to compare with; empty: those of the repository.
GROUNDTRUTH ?= $(NUMA_GROUNDTRUTH)

fidelity: kernels ## Compare with captured kernels (GROUNDTRUTH=DIR: those); writes docs/fidelity.md.
	$(BIN)/python tests/fidelity/table.py $(if $(GROUNDTRUTH),"$(GROUNDTRUTH)",--write docs/fidelity.md)

FILES ?= 100000
fuzz-imports: setup ## Mutated files over all importers (FILES=100000).
	$(BIN)/python tests/fuzz/imports.py --files $(FILES)

judges: kernels ## Ask others' files, where they are (NUMA_CORPORA); writes docs/judges.md.
	$(BIN)/python tests/judges/table.py

SCRATCH ?= build/conformance
UNDER ?=
conformance: kernels ## Public suites on emulated machines (UNDER=CMD: on another system); writes docs/conformance.md.
	$(BIN)/python tests/conformance/run.py --scratch "$(SCRATCH)" $(if $(UNDER),--under "$(UNDER)",--write docs/conformance.md)

bench: setup ## Measure everything (PARTS="serve mm": those), each row beside something else.
	$(BIN)/python benchmarks/bench.py $(PARTS)

plots: setup ## Measure how cost grows and draw it: docs/scaling.json and .svg.
	$(BIN)/python benchmarks/scaling.py

bench-mm: setup ## Nanoseconds per allocation in the model, beside C.
	$(BIN)/python benchmarks/mm.py

SEEDS ?= 200
FIRST ?= 0
KEEP ?=
sim: setup ## Attack simulated machines: SEEDS=200 of them, FIRST=0; KEEP=3,7 are the actions of one.
	@$(BIN)/python -m numa_service.cli.attack --seeds $(SEEDS) --first $(FIRST) $(if $(KEEP),--keep $(KEEP))

picture: setup ## Play a short demo and save its screen as docs/demo.svg.
	$(BIN)/python docs/make_demo_svg.py

dashboards: setup ## Write the dashboards and node_exporter's names for deploy/ from code.
	$(BIN)/python -m numa_service.metrics.dashboards

pictures: setup ## Load a machine under a real Prometheus and draw docs/dashboards/*.png.
	@$(BIN)/python docs/dashboards/make_pictures.py

stubs: setup ## Generate the protobuf stubs from proto/.
	$(BIN)/python clients/python/generate.py

sync: setup ## Make the blocking Python client from the asyncio one.
	$(BIN)/python clients/python/make_sync.py

dist: setup ## Wheels and source archives of the three packages, into dist/.
	@rm -rf dist
	@for package in $(CLIENTS) .; do (cd $$package && $(CURDIR)/$(BIN)/python -m hatchling build -d $(CURDIR)/dist) || exit 1; done

clean: ## Remove what make made: .venv, archives and the unpacked captures.
	rm -rf $(VENV) dist build
