# make help lists the targets. Variables: RECIPE= EPOCHS= DATA= RUN= ARGS= DEVICE=cpu|gpu PYTHON= VENV= PADDLE= BENCH= TORCH=
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
DEVICE ?= $(shell nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)
PADDLE ?=
BIN := $(VENV)/bin
# One stamp for each kind of install, written only after it has succeeded.
INSTALLED := $(VENV)/installed-$(DEVICE)$(subst =,-,$(PADDLE))
INSTALLED_DEV := $(INSTALLED)-dev
INSTALLED_DOCS := $(INSTALLED)-docs
INSTALLED_RELEASE := $(INSTALLED)-release
INSTALLED_SERVE := $(INSTALLED)-serve
OTHER_PADDLE := $(if $(filter gpu,$(DEVICE)),paddlepaddle,paddlepaddle-gpu)
# What is compared with lives in an environment of its own.
BENCH ?= loader process_settings optimizer loop checkpoint bn_stats growth training
TORCH ?= torch==2.13.0+cpu
INSTALLED_TORCH := .venv-torch/installed-$(subst =,-,$(TORCH))
PACKAGING := setup.cfg setup.py pyproject.toml cifar_hapi/engine/winograd.c

.PHONY: help train resume evaluate report serve test lint format smoke tutorial docs results audit dist bench bench-inference bench-scaling bench-serving bench-store clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /make \1@/' | column -t -s@

train: $(INSTALLED)  ## train RECIPE= on DATA= for EPOCHS=, into RUN= (all optional; ARGS= for more)
	@$(BIN)/cifar-hapi train $(RECIPE) $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(DATA),--data $(DATA)) \
		$(if $(RUN),--run-dir $(RUN)) --device $(DEVICE) $(ARGS)

resume: $(INSTALLED)  ## go on with RUN= (the newest if absent) where it was interrupted; EPOCHS= extends it
	@$(BIN)/cifar-hapi resume $(RUN) $(if $(EPOCHS),--epochs $(EPOCHS)) --device $(DEVICE) $(ARGS)

evaluate: $(INSTALLED)  ## evaluate RUN= (the newest if absent) on the whole test set
	@$(BIN)/cifar-hapi evaluate $(RUN) $(if $(DATA),--data $(DATA)) --device $(DEVICE) $(ARGS)

report: $(INSTALLED)  ## write a page about RUN= (the newest if absent; several with ARGS="--out FILE")
	@$(BIN)/cifar-hapi report $(RUN) $(ARGS)

serve: $(INSTALLED_SERVE)  ## a page and an API for RUN= (the newest if absent) at http://127.0.0.1:8000 (ARGS="--port N")
	@$(BIN)/cifar-hapi serve $(RUN) --device $(DEVICE) $(ARGS)

test: $(INSTALLED_DEV)  ## run the tests (ARGS= goes to pytest)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(INSTALLED_DEV)  ## style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(INSTALLED_DEV)  ## put the code in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

smoke: $(INSTALLED)  ## the whole program once, on a few generated images
	@.ci/smoke $(BIN)/cifar-hapi

tutorial: $(INSTALLED_DEV)  ## run the notebooks of docs/tutorial
	@$(foreach notebook,$(wildcard docs/tutorial/[0-9]_*.py),echo $(notebook) && MPLBACKEND=agg $(BIN)/python -W ignore $(notebook) &&) true

results: $(INSTALLED)  ## the runs of docs/results.md on CIFAR-10 (hours; stop and go on at will; ARGS= some of them)
	@$(BIN)/python docs/results/train.py $(ARGS)

docs: $(INSTALLED_DOCS)  ## the pages of docs/ as a site, in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo 'site/index.html; its search needs a server: $(BIN)/python -m http.server --directory site'

audit: $(INSTALLED_RELEASE)  ## known vulnerabilities of what is installed, and secrets in the tree
	@.ci/audit $(BIN)

dist: $(INSTALLED_RELEASE)  ## wheel and source archive in dist/, checked and tried elsewhere
	@.ci/dist $(BIN)

bench: $(INSTALLED_DEV)  ## the benchmarks (long; BENCH= some of them, ARGS= goes to each)
	@test -e $(INSTALLED_TORCH) || { $(PYTHON) -m venv .venv-torch \
		&& .venv-torch/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH) numpy \
		&& touch $(INSTALLED_TORCH); } || echo '$(TORCH) cannot be installed: its rows will say so' >&2
	@$(foreach name,$(BENCH),$(if $(filter loader,$(name)),OMP_NUM_THREADS=1 )$(BIN)/python -m benchmarks.$(name) $(ARGS) &&) true

bench-inference: BENCH := inference
bench-inference: bench  ## throughput and latency of networks in use, beside ONNX and PyTorch (ARGS= goes to it)

bench-serving: $(INSTALLED_DEV)  ## requests a second of the server, by clients (ARGS="--run RUN" and more)
	@$(BIN)/python -m benchmarks.serving $(ARGS)

bench-scaling: $(INSTALLED)  ## one process beside two on two cores, and what that says of more (ARGS= goes to it)
	@$(BIN)/python -m benchmarks.scaling $(ARGS)

bench-store: $(INSTALLED)  ## memory of a process that goes through a gigabyte of pixels, mapped and not (ARGS= goes to it)
	@$(BIN)/python -m benchmarks.store $(ARGS)

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .venv-torch site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): $(PACKAGING)
	$(call install,.[$(DEVICE)$(comma)report])
	@touch $@

$(INSTALLED_DEV): $(PACKAGING)
	$(call install,.[$(DEVICE)$(comma)dev])
	@touch $(INSTALLED) $@

$(INSTALLED_DOCS): $(PACKAGING)
	$(call install,.[$(DEVICE)$(comma)dev$(comma)docs])
	@touch $(INSTALLED) $(INSTALLED_DEV) $@

$(INSTALLED_RELEASE): $(INSTALLED_DEV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(DEVICE)$(comma)dev$(comma)release]' $(PADDLE)
	@touch $@

$(INSTALLED_SERVE): $(INSTALLED)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(DEVICE)$(comma)serve]' $(PADDLE)
	@touch $@

comma := ,
define install
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "cifar-hapi needs Python 3.10 or newer; name one: make PYTHON=python3.11 ...")'
	@case "$(DEVICE)" in cpu|gpu) ;; *) echo 'DEVICE=$(DEVICE): must be cpu or gpu' >&2; exit 2;; esac
	@echo 'installing into $(VENV) ...'
	@rm -f $(VENV)/installed-*
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip uninstall --quiet --yes $(OTHER_PADDLE) 2>/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '$(1)' $(PADDLE)
endef
