# The few commands of the README; each is a thin face on a program under tools/.
# `make` alone lists them. CONTEXT=name deploys to a cluster of yours, REGISTRY=name through a registry; WORKS=burst,mixed
# runs only these benchmarks, SCALER=file with something else scaling (docs/benchmarks.md). MINUTES=60 is how long faults
# come in `make chaos`, SEED=number repeats a run of it (docs/chaos.md).

PYTHON ?= python3
VENV := .venv/bin/python
CONTEXT ?=
REGISTRY ?=
NODES ?=
WORKS ?=
SCALER ?=
MINUTES ?=
SEED ?=

.PHONY: help demo test cluster down deploy bench chaos venv

help:
	@echo 'make demo      from nothing to workers that follow the backlog, on a local cluster'
	@echo 'make test      everything CI runs'
	@echo 'make cluster   a local Kubernetes cluster (NODES=3: of three nodes); make down removes it'
	@echo 'make deploy    build the images and install Warren (CONTEXT=name: on a cluster of yours)'
	@echo 'make bench     the benchmarks; results under build/bench/'
	@echo 'make chaos     faults of all kinds, and whether a task was lost; report under build/chaos/'

venv:
	@$(PYTHON) -m tools.venv

demo: venv
	@$(VENV) -m tools.demo

test: venv
	@$(VENV) -m tools.test

cluster:
	@$(PYTHON) -m tools.cluster up $(if $(NODES),--nodes $(NODES))

down:
	@$(PYTHON) -m tools.cluster down

deploy: venv
	@$(VENV) -m tools.deploy $(if $(CONTEXT),--context $(CONTEXT)) $(if $(REGISTRY),--registry $(REGISTRY))

bench: venv
	@$(VENV) -m tools.bench $(if $(WORKS),--works "$(WORKS)") $(if $(SCALER),--scaler "$(SCALER)")

chaos: venv
	@$(VENV) -m tools.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))
