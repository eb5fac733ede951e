# Every target that needs Python creates .venv, and recreates it when requirements.lock changes. What
# only developing needs is added once it is wanted.
PYTHON ?= python3
BIN := .venv/bin
sum = $(shell cat $(1) 2>/dev/null | cksum | cut -d' ' -f1)
STAMP := .venv/.lock-$(call sum,requirements.lock)
DEV := .venv/.dev-$(call sum,requirements.lock requirements-dev.lock)
# If the project was moved or its Python is gone, the commands in .venv name paths that do not exist.
ALIVE := $(shell head -n 3 $(BIN)/harness 2>/dev/null | grep -qF '$(CURDIR)/.venv/' \
  && $(BIN)/python -c '' 2>/dev/null && echo yes)
JOBS ?=
JOBS_PER_DEVICE ?=
DEVICE ?= auto
# For reproduce-fashion, -tiny, -cifar, -cub and their like: SEEDS=0,1  EPOCHS_SCALE=0.1  DATA_ROOT=/data
SEEDS ?=
EPOCHS_SCALE ?=
DATA_ROOT ?=
# For tables: FILE=experiments/digits.yaml makes its trained cells the committed numbers
FILE ?=
# For kills: how often each command is killed, and the seed of an earlier call
KILLS ?= 10
SEED ?=
# For bench: AGAINST=COMMIT also times the grid of that commit
AGAINST ?=
# For docs: where the site goes
SITE ?= site
comma := ,
space := $(subst ,, )
RUN_OPTIONS := --device $(DEVICE) $(if $(JOBS),--jobs $(JOBS)) \
  $(if $(JOBS_PER_DEVICE),--jobs-per-device $(JOBS_PER_DEVICE))
GRID_OPTIONS := $(if $(SEEDS),--set 'seeds=[$(subst $(space),$(comma),$(strip $(SEEDS)))]') \
  $(if $(EPOCHS_SCALE),--set epochs_scale=$(EPOCHS_SCALE)) \
  $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)')

# Train experiments, print their tables, and say which effects and verdicts agree with the committed ones.
# No tracked file changes: only `make tables FILE=..` writes. $(3): a status of `verdicts` that is no failure.
reproduction = status=0; for file in $(1); do \
  $(BIN)/harness run experiments/$$file.yaml $(RUN_OPTIONS) $(2) || exit; \
  $(BIN)/harness verdicts experiments/$$file.yaml $(2) || [ $$? -eq $(or $(3),0) ] || status=1; \
  done; exit $$status

# No numbers of the grids that need a GPU are committed, so none can be confirmed (status 4).
uncommitted = $(call reproduction,$(1),$(GRID_OPTIONS),4)

# The tuned files of these experiments, or else the files that they are made from.
tuned = $(foreach name,$(1),$(if $(wildcard experiments/$(name).tuned.yaml),$(name).tuned,$(subst -,_,$(name))))

.PHONY: dead-venv setup setup-dev reproduce reproduce-methods reproduce-fashion reproduce-tiny reproduce-cifar reproduce-cifar-methods reproduce-cifar-2020 reproduce-cifar-2021 reproduce-cub reproduce-crd reproduce-crd-rehearsal reproduce-cross-cifar reproduce-cross-cub reproduce-middle-cifar tune-digits tune-fashion tune-tiny tune-cifar optuna-ui tables tables-check figures screenshots ui docker-up docker-reproduce docker-down docker-check test kills lint docs dist sbom licences format bench lock clean help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-24s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Compile now: if PYTHONDONTWRITEBYTECODE is set, as in many containers, each command would compile what
# it imports. Some files need a newer Python.
setup: $(STAMP)  ## make .venv

setup-dev: $(DEV)  ## and what tests, lint and docs need

# uv takes half of pip's time. If the index lacks it, or it cannot reach what pip is configured for, pip
# installs; it compiles with one core, so that is left to compileall.
UV := uv==0.13.9
pip := $(BIN)/python -m pip install -qq --disable-pip-version-check
install = { $(pip) $(UV) && $(BIN)/python -m uv pip install --quiet --python $(BIN)/python \
  --compile-bytecode $(1); } 2> /dev/null || { $(pip) --no-compile $(1) \
  && { $(BIN)/python -m compileall -qq -j 0 .venv/lib || true; }; }

$(STAMP): $(if $(ALIVE),,dead-venv)
	@echo "Setting up .venv: downloads PyTorch once, some minutes"
	@rm -rf .venv
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11 to 3.13 is needed, this is %d.%d; use make PYTHON=python3.12" % v)'
	@$(PYTHON) -m venv .venv
	@$(call install,-r requirements.lock)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): $(STAMP)
	@echo "Adding to .venv what tests, lint and docs need: some minutes"
	@$(call install,--constraint requirements.lock -r requirements-dev.lock)
	@touch $@

# Eight of the committed seeds: with all of them and the set-up, two slow cores would need ten minutes.
REPRODUCE_SEEDS := --set 'seeds=[20, 21, 22, 23, 24, 25, 26, 27]'
reproduce: $(STAMP)  ## the two digits grids, beside the committed numbers
	@$(call reproduction,digits digits_cross,$(REPRODUCE_SEEDS))

reproduce-methods: $(STAMP)  ## all methods on the digits (see docs/comparison.md)
	@$(call reproduction,digits_methods)

reproduce-fashion: $(STAMP)  ## few images per class: Fashion-MNIST, no GPU
	@$(call reproduction,$(call tuned,fashion-shots),$(GRID_OPTIONS))

TINY := tiny-imagenet tiny-imagenet-cross tiny-imagenet-mobile-net
reproduce-tiny: $(STAMP)  ## Tiny ImageNet, three grids: hours, no GPU
	@$(call reproduction,$(call tuned,$(TINY)),$(GRID_OPTIONS))

reproduce-cifar: $(STAMP)  ## the published CIFAR-100 grid (needs a GPU)
	@$(call uncommitted,cifar100_wide_resnet)

reproduce-cifar-methods: $(STAMP)  ## the methods of the 2020 table on CIFAR-100 (GPU)
	@$(call uncommitted,cifar100_methods)

reproduce-cifar-2020: $(STAMP)  ## the 2020 table, by that release's protocol (GPU)
	@$(call uncommitted,cifar100_wide_resnet_2020)

reproduce-cifar-2021: $(STAMP)  ## the 2021 rows, by that release's protocol (GPU)
	@$(call uncommitted,cifar100_wide_resnet_2021)

reproduce-crd: $(STAMP)  ## the CRD benchmark's two tables on CIFAR-100 (GPU)
	@$(call uncommitted,crd_same crd_cross)

reproduce-crd-rehearsal: $(STAMP)  ## the same with two pairs on the digits, minutes
	@$(call reproduction,crd_rehearsal,,4)

reproduce-cross-cifar: $(STAMP)  ## class overlap on CIFAR-100, two class orders (GPU)
	@$(call uncommitted,cifar100_cross cifar100_cross_labels)

reproduce-middle-cifar: $(STAMP)  ## few images per class, CIFAR-100 (as reproduce-cifar)
	@$(call uncommitted,cifar100_middle)

reproduce-cross-cub: $(STAMP)  ## class overlap on CUB-200 (as reproduce-cub)
	@$(call uncommitted,cub200_cross)

reproduce-cub: $(STAMP)  ## the published CUB-200 grid (needs a GPU)
	@$(call uncommitted,cub200_mobile_net)

tune-digits: $(STAMP)  ## tune each method for each task, digits
	@$(BIN)/harness tune experiments/tuning/digits-shots.yaml $(RUN_OPTIONS)
	@$(BIN)/harness tune experiments/tuning/digits-overlap.yaml $(RUN_OPTIONS)

tune-fashion: $(STAMP)  ## tune each method for each task, Fashion-MNIST
	@$(BIN)/harness tune experiments/tuning/fashion-shots.yaml $(RUN_OPTIONS) \
	  $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)')
	@$(MAKE) --no-print-directory reproduce-fashion

tune-tiny: $(STAMP)  ## tune each method on Tiny ImageNet (hours)
	@set -e; for name in $(TINY); do $(BIN)/harness tune experiments/tuning/$$name.yaml \
	  $(RUN_OPTIONS) $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)'); done
	@$(MAKE) --no-print-directory reproduce-tiny

tune-cifar: $(STAMP)  ## tune on CIFAR-100's validation split (needs a GPU)
	@$(BIN)/harness tune experiments/tuning/cifar100_wide_resnet.yaml $(RUN_OPTIONS) \
	  $(if $(DATA_ROOT),--data-root '$(DATA_ROOT)')

optuna-ui: $(DEV)  ## the newest study, on http://127.0.0.1:8080
	@$(BIN)/harness studies

docker-up:  ## PostgreSQL, MLflow, optuna-dashboard in containers
	@docker/compose.sh up --build --detach --wait

docker-reproduce: docker-up  ## the digits grid in a container (GPU=1: on GPUs)
	@docker/compose.sh run --rm --build trainer harness run experiments/digits.yaml $(RUN_OPTIONS)
	@docker/compose.sh run --rm trainer harness verdicts experiments/digits.yaml

docker-down:  ## stop the containers; data stay on volumes
	@docker/compose.sh --profile '*' down

# A Docker Engine of Debian's packages, in namespaces of its own.
docker-check: $(DEV)  ## images and services on a Docker Engine (root)
	@$(BIN)/python tests/containers.py

tables: $(STAMP)  ## rewrite README, docs; FILE=EXPERIMENT: its numbers too
	@$(BIN)/harness tables $(FILE)

tables-check: $(STAMP)  ## fail if a table differs from experiments/results
	@$(BIN)/harness tables --check

screenshots: $(DEV)  ## docs/screenshots again (needs Chromium)
	@cd tests && PYTHONPATH=.. ../$(BIN)/python screenshots.py

figures: $(STAMP)  ## redraw docs/figures
	@$(BIN)/harness figures

ui: $(STAMP)  ## MLflow on http://127.0.0.1:5000
	@$(BIN)/harness ui

# Three processes keep two cores busy while some of them wait for servers.
test: $(DEV)  ## run the tests
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

kills: $(DEV)  ## kill each command (KILLS=10) times
	@cd tests && ../$(BIN)/python kill_campaign.py --kills $(KILLS) $(if $(SEED),--seed $(SEED))

lint: $(DEV)  ## ruff, mypy; tables, docs and the site fit results
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/harness tables --check
	@$(BIN)/python benchmarks/page.py --check
	@$(BIN)/python -m website

docs: $(DEV)  ## the documentation as a site, offline, in site/
	@$(BIN)/python -m website '$(SITE)'
	@echo "written: open $(SITE)/index.html"

# `git archive` writes the commit into the files, and takes nothing that is not committed.
dist: $(DEV)  ## wheel and source of the last commit, in dist/
	@set -e; source=$$(mktemp -d); trap 'rm -rf "$$source"' EXIT; \
	  git archive HEAD | tar -x -C "$$source"; \
	  $(BIN)/python -m build --no-isolation --outdir '$(abspath dist)' "$$source" > /dev/null
	@echo "written: dist/"

sbom: $(DEV)  ## the packages of both locks as CycloneDX, in dist/
	@$(BIN)/python -m release.sbom dist/sbom.cdx.json

licences: $(DEV)  ## docs/licences.md, after a lock has changed
	@$(BIN)/python -m release.licences

format: $(DEV)  ## let ruff format and fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(DEV)  ## timed comparisons, kept in docs/performance.md
	@set -e; for name in bare_bound stage1_loss peers method_steps costs; do \
	  $(BIN)/python benchmarks/$$name.py --device $(DEVICE) --save; done
	@$(BIN)/python benchmarks/grid.py --device $(DEVICE) --asking --save $(if $(AGAINST),--against $(AGAINST))
	@$(BIN)/python benchmarks/grid.py --tuning --device $(DEVICE) --save $(if $(AGAINST),--against $(AGAINST))
	@$(BIN)/harness tables
	@$(BIN)/python benchmarks/executors.py --save
	@$(BIN)/python benchmarks/planning.py --save
	@$(BIN)/python benchmarks/scale.py --save
	@$(BIN)/python benchmarks/verdict_rule.py --save
	@$(BIN)/python benchmarks/grid_power.py --save
	@$(BIN)/python benchmarks/gpu_hours.py --save
	@$(BIN)/python benchmarks/stage2_crops.py --save
	@$(BIN)/python benchmarks/costs.py --draw
	@$(BIN)/python benchmarks/page.py

frozen = .venv-lock/bin/python -m pip freeze --all --exclude refilled-harness --exclude pip \
  | sed -E 's/^((nvidia|cuda|triton)[^ ]*)$$/\1; sys_platform == "linux"/'
lock:  ## resolve both locks again
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/python -m pip install --quiet setuptools .
	@$(frozen) > requirements.lock
	@.venv-lock/bin/python -m pip install --quiet --constraint requirements.lock '.[dev]'
	@$(frozen) | grep -vxFf requirements.lock > requirements-dev.lock
	@rm -rf .venv-lock

clean:  ## remove .venv and caches; results stay
	rm -rf .venv .venv-lock .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
