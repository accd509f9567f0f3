# `make demo` and `make test` do all the set-up that they need: Python 3.11 or 3.12, make and git suffice.

PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
DATA ?= digits
WORKSPACE ?= .secateur/$(DATA)
BIN := .venv/bin
# Every stage is a process that imports torch, kfp and MLflow: without bytecode each would compile thousands of files.
unexport PYTHONDONTWRITEBYTECODE
UV := $(BIN)/uv
UV_VERSION := 0.13.9

.PHONY: demo test test-triton test-storage test-serve serve test-containers tensorrt-bindings check lint types layers unit lock \
	image sbom ir readmes chart docs ideas study studies ui clean help

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(UV):
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/.runtime: requirements.lock pyproject.toml | $(UV)
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements-dev.lock .venv/.runtime
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

demo: .venv/.runtime  ## Run the whole pipeline on DATA (digits, fashion_mnist, …).
	$(BIN)/python -m pipelines.local --data $(DATA) --workspace $(WORKSPACE)

PORT ?= 5000
ui: .venv/.runtime  ## Open the MLflow UI on the runs of WORKSPACE at PORT.
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(WORKSPACE)/mlflow.db --port $(PORT)

# Begun first, so that no worker is left alone with one of them in the end; pytest orders folders that overlap itself.
LONGEST := tests/end_to_end tests/storage tests/golden tests/studies tests/contract tests/deploy
OTHERS := $(filter-out $(LONGEST) tests/__pycache__,$(patsubst %/,%,$(wildcard tests/*/)))
test: lint types layers tensorrt-bindings .venv-kserve/.done  ## Run every check, and every test without a target of its own; line coverage is that of the unit and contract tests.
	$(UNIT) --cov --cov-report=
	$(BIN)/coverage report --fail-under=90
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder --durations=15 \
		-m "slow and not own_target" $(LONGEST) $(OTHERS)

check: lint types layers unit  ## Lint, types, import layers, unit and contract tests (under 3 minutes).

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pipelines.compile --check
	$(BIN)/python -m components.readme --check
	$(BIN)/python charts/readme.py --check
	$(BIN)/python -m studies.ideas --check

types: .venv/.dev
	$(BIN)/mypy

layers: .venv/.dev
	$(BIN)/lint-imports

UNIT := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" --doctest-modules

unit: .venv/.dev
	$(UNIT)

ir: .venv/.runtime  ## Compile the pipelines' intermediate representation that is committed.
	$(BIN)/python -m pipelines.compile

readmes: .venv/.runtime  ## Generate the components' READMEs from their signatures.
	$(BIN)/python -m components.readme

chart: .venv/.runtime  ## Generate the chart's README from its values.
	$(BIN)/python charts/readme.py

.venv-triton/.done: requirements-triton.lock .venv/.dev
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-triton
	$(UV) pip install --quiet --python .venv-triton/bin/python --require-hashes -r $<
	@touch $@

test-triton: .venv-triton/.done  ## Pull models from MLflow into a real tritonserver: under load, across versions, compiled.
	SECATEUR_TRITON_REQUESTS=5000 $(BIN)/python -m pytest tests/deploy/test_triton_server.py \
		tests/deploy/test_aotinductor_package.py -m "slow or not slow"

# KServe wants older packages than MLflow and Kubeflow do, so its model server lives alone; it needs no torch.
.venv-kserve/.done: requirements/kserve.lock pyproject.toml | $(UV)
	$(UV) venv --quiet --allow-existing --python $(BIN)/python .venv-kserve
	$(UV) pip install --quiet --python .venv-kserve/bin/python --require-hashes -r $<
	$(UV) pip install --quiet --python .venv-kserve/bin/python --no-deps --no-build-isolation -e .
	@touch $@

FOLDER ?= digits
serve: .venv-kserve/.done  ## Serve the pulled package FOLDER on the loopback (Open Inference Protocol v2).
	.venv-kserve/bin/secateur serve $(FOLDER)

test-serve: .venv-kserve/.done .venv/.dev  ## Ask the local server, and compare manifests with KServe's own models.
	$(BIN)/python -m pytest tests/deploy/test_serve.py tests/deploy/test_kserve.py tests/charts/test_kserve_objects.py \
		-m "slow or not slow"

test-storage: .venv/.dev  ## Run DATA's pipeline on PostgreSQL and S3 (moto, rclone), and MLflow away for 30 s.
	SECATEUR_STORAGE_PRESET=$(DATA) SECATEUR_AWAY_S=30 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/storage -m "slow or not slow" --durations=10

docs: .venv/.dev  ## Build the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

TENSORRT := 10.16.1.11 11.4.0.106

.tensorrt-bindings/%/.done: requirements/tensorrt-bindings-%.lock .venv/.dev
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --require-hashes --target $(@D) -r $<
	@touch $@

tensorrt-bindings: $(TENSORRT:%=.tensorrt-bindings/%/.done)  ## Fetch TensorRT's Python bindings, without its libraries, for the tests.

DOCKER ?= docker
VERSION ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE ?= ghcr.io/secateur/secateur-python:$(VERSION)
# GPU: BASE=nvcr.io/nvidia/tensorrt:TAG SYSTEM_SITE_PACKAGES=true
BASE ?= python:3.11-slim-bookworm
SYSTEM_SITE_PACKAGES ?= false
LOCK_FILE ?= requirements.lock
REVISION ?= $(shell git rev-parse HEAD)
CREATED ?= $(shell date -u +%Y-%m-%dT%H:%M:%SZ)
SOURCE ?= $(filter https://%,$(shell git config --get remote.origin.url | sed 's|//[^@/]*@|//|'))
BUILD_OPTIONS ?=
SBOM ?= dist
BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build $(BUILD_OPTIONS) --file components/image/Dockerfile --build-arg BASE=$(BASE) \
	--build-arg SYSTEM_SITE_PACKAGES=$(SYSTEM_SITE_PACKAGES) --build-arg LOCK=$(LOCK_FILE)

image:  ## Build the image of the components.
	$(BUILD) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --build-arg CREATED=$(CREATED) \
		--build-arg SOURCE=$(SOURCE) --tag $(IMAGE) .

sbom:  ## Write SBOM/sbom.cdx.json: what the image holds, as CycloneDX.
	$(BUILD) --target sbom --output type=local,dest=$(SBOM) .

test-containers: .venv/.dev  ## Build the image with an engine of its own and run the pipeline in containers (root, Debian).
	$(BIN)/python -m tests.containers

ideas: .venv/.runtime  ## Generate docs/ideas.md from the cards and the studies' results.
	$(BIN)/python -m studies.ideas

STUDY ?= 0001
PRESET ?= quick
study: .venv/.runtime  ## Run the study STUDY with PRESET.
	$(BIN)/secateur study $(STUDY) --preset $(PRESET)

studies: .venv/.runtime  ## Run the quick preset of every study, one after the other.
	for name in $$(ls -d studies/[0-9]*); do $(BIN)/secateur study $$(basename $$name) --preset quick || exit 1; done

LOCK := $(UV) pip compile pyproject.toml --extra all --extra build --universal --python-version 3.11 \
	--generate-hashes --no-header --no-annotate --quiet

lock: $(UV)  ## Compile the hashed locks again.
	$(LOCK) --extra serve --extra docs --extra dev -c requirements/constraints.txt -o requirements-dev.lock
	$(LOCK) -c requirements-dev.lock -o requirements.lock
	$(UV) pip compile requirements/triton.in --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --quiet -o requirements-triton.lock
	$(UV) pip compile requirements/kserve.in --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --quiet -o requirements/kserve.lock
	$(UV) pip compile requirements/image.in --universal --python-version 3.11 --generate-hashes --no-header \
		--no-annotate --quiet -o requirements-image.lock

clean:  ## Remove caches and demo workspaces, keep .venv.
	rm -rf .secateur .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage* build dist
