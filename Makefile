# tradeserve: `make help` lists the targets. Everything it builds lies under build/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
EXTRAS ?= cpu,dev
VENV := build/venv
TRITON_VENV := build/venv-triton
VLLM_VENV := build/venv-vllm
BIN := $(VENV)/bin
# The real IBKR client of the stack and its successor install the same package: one lives apart.
IB_ASYNC := build/ib_async

# uv when it is there, else pip; uv does not read pip's find-links setting, so hand it over.
UV := $(shell command -v uv 2>/dev/null)
export UV_FIND_LINKS ?= $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null || echo $(PIP_FIND_LINKS))
# As pip and the browser do: trust what the machine trusts (a company's proxy, say).
export UV_SYSTEM_CERTS ?= true
ifeq ($(UV),)
new_venv = $(PYTHON) -m venv $(1)
install = $(1)/bin/python -m pip install --quiet --disable-pip-version-check
else
new_venv = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(1)
install = VIRTUAL_ENV=$(CURDIR)/$(1) $(UV) pip install --quiet
endif

comma := ,
STAMP := $(VENV)/.extras-$(subst $(comma),-,$(EXTRAS))
RUN_STAMP := $(VENV)/.extras-cpu
TRITON_STAMP := $(TRITON_VENV)/.installed
VLLM_STAMP := $(VLLM_VENV)/.installed
IB_ASYNC_STAMP := $(IB_ASYNC)/.installed

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18 | sed 's/^/  /'

$(VENV)/.extras-%: pyproject.toml constraints.txt
	@echo "environment: installing tradeserve[$(subst -,$(comma),$*)] into $(VENV)"
	@test -x $(BIN)/python || $(call new_venv,$(VENV))
	@$(call install,$(VENV)) -c constraints.txt -e '.[$(subst -,$(comma),$*)]'
	@touch $@

$(TRITON_STAMP): servers/triton_server/requirements.txt
	@echo "environment: installing Triton into $(TRITON_VENV)"
	@test -x $(TRITON_VENV)/bin/python || $(call new_venv,$(TRITON_VENV))
	@$(call install,$(TRITON_VENV)) --no-deps -r servers/triton_server/requirements.txt
	@touch $@

# Everything is pinned, so nothing is resolved; our own packages join it as they lie here.
$(VLLM_STAMP): servers/vision_server/requirements.txt servers/vision_server/torchvision_shim.py pyproject.toml
	@echo "environment: installing vLLM into $(VLLM_VENV) (2.5 GB)"
	@test -x $(VLLM_VENV)/bin/python || $(call new_venv,$(VLLM_VENV))
	@$(call install,$(VLLM_VENV)) --no-deps -r servers/vision_server/requirements.txt
	@$(call install,$(VLLM_VENV)) --no-deps -e .
	@packages=$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		cp servers/vision_server/torchvision_shim.py $$packages/ \
		&& echo "import torchvision_shim" > $$packages/torchvision_shim.pth
	@touch $@

$(IB_ASYNC_STAMP): $(STAMP) tests/integration/ib_async-requirements.txt
	@echo "environment: installing ib_async into $(IB_ASYNC)"
	@$(call install,$(VENV)) --no-deps --target $(IB_ASYNC) -r tests/integration/ib_async-requirements.txt
	@touch $@

.PHONY: setup
setup: $(STAMP) $(TRITON_STAMP) $(IB_ASYNC_STAMP) ## Build every environment that tests need

.PHONY: venv-vllm
venv-vllm: $(VLLM_STAMP) ## Build the environment of vLLM, which reads charts (2.5 GB; nothing else needs it)

# Built by hand, used from then on; TRITON_BACKENDS= goes back to ours. Tests are of ours.
export TRITON_BACKENDS ?= $(abspath $(wildcard build/triton-backends))
test: export TRITON_BACKENDS :=

.PHONY: native-backend
native-backend: $(RUN_STAMP) $(TRITON_STAMP) ## Build NVIDIA's C++ onnxruntime backend for the local Triton: calls take half the time (ARGS=)
	@$(BIN)/python -m triton_server.native_backend --venv $(TRITON_VENV) --out build/triton-backends \
		--work build/native-backend $(ARGS)

# --- run --------------------------------------------------------------------------------------
SESSION ?= generated
SPEED ?=
SYMBOLS ?=
GATEWAY ?=
TRITON ?=
SIMILARITY ?=
VISION ?=
CONFIG ?=
SEED ?= 7
ARGS ?=
STACK = $(BIN)/python -m local_stack --session "$(SESSION)" --speed "$(SPEED)" --seed "$(SEED)" \
	--symbols "$(SYMBOLS)" --gateway "$(GATEWAY)" --triton "$(TRITON)" --similarity "$(SIMILARITY)" \
	--vision "$(VISION)" $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)

.PHONY: psql
psql: $(RUN_STAMP) ## Open psql on the recorded data (SQL="select …" runs one statement)
	@$(BIN)/python -m journal psql -- $(if $(SQL),-c "$(SQL)")

.PHONY: replay
replay: $(RUN_STAMP) ## Make the decisions of a run again from the record (RUN=id, default: the latest)
	@$(BIN)/python -m strategy replay $(RUN)

.PHONY: show
show: $(RUN_STAMP) ## Print everything that belongs to one decision (DECISION=id)
	@$(BIN)/python -m journal show "$(DECISION)"

.PHONY: run
run: $(RUN_STAMP) $(if $(TRITON),,$(TRITON_STAMP)) ## Trade one session on paper (SESSION= SPEED= SYMBOLS= GATEWAY= TRITON= SIMILARITY= VISION=on|off|host:port CONFIG= DATABASE_URL=)
	@$(STACK)

# --- checks and tests -------------------------------------------------------------------------
DATA ?= ../shared/data
SOURCES := clients servers export db deploy tests
PROTOS := $(shell cd protos && find tradeserve -name '*.proto' | sort)
SERVICES := $(filter %_service.proto,$(PROTOS))
PYTEST_ARGS ?=

# A worker that dies ends the run: xdist would restart it, and then wait for its group without an end.
.PHONY: test
test: setup check ## Run the whole suite (EXTRAS=cpu,dev,export adds what needs torch)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --max-worker-restart=0 $(PYTEST_ARGS)

.PHONY: check
check: $(STAMP) format-check lint types layers proto-check ## Run every static check

.PHONY: format
format: $(STAMP) ## Format the sources
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/ruff check --fix --quiet $(SOURCES)

.PHONY: format-check
format-check: $(STAMP)
	@$(BIN)/ruff format --check --quiet $(SOURCES)

.PHONY: lint
lint: $(STAMP) ## Lint the sources and the protos
	@$(BIN)/ruff check --quiet $(SOURCES)
	@cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code

.PHONY: types
types: $(STAMP) ## Check the types
	@$(BIN)/mypy --no-error-summary clients servers export db deploy tests

.PHONY: layers
layers: $(STAMP) ## Check who imports whom
	@$(BIN)/lint-imports --no-cache | tail -n 1

GENERATE = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos \
	--python_out=$(1) --mypy_out=quiet:$(1) $(PROTOS) && \
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc -I protos \
	--grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(SERVICES)

.PHONY: protos
protos: $(STAMP) ## Generate the Python code of the protos
	@rm -rf protos/gen/tradeserve
	@$(call GENERATE,protos/gen)

.PHONY: proto-check
proto-check: $(STAMP)
	@rm -rf build/gen && mkdir -p build/gen && $(call GENERATE,build/gen)
	@diff -r -x __pycache__ build/gen/tradeserve protos/gen/tradeserve \
		|| { echo "protos/gen is not what protos/ generates: run 'make protos' and commit"; exit 1; }

TARGET ?=
RPS ?=
DURATION ?=
SCHEDULE ?=
STRATEGY ?=
NEED ?= 1000
ELSEWHERE = --triton "$(TRITON)" --similarity "$(SIMILARITY)" --strategy "$(STRATEGY)"

.PHONY: loadtest
loadtest: $(RUN_STAMP) $(if $(TRITON),,$(TRITON_STAMP)) ## Load one server and judge it by deploy/slo.toml (TARGET= RPS= DURATION= SCHEDULE=const,step,line TRITON= SIMILARITY= STRATEGY=)
	@$(BIN)/python -m load_test run "$(TARGET)" $(if $(RPS),--rps "$(RPS)") \
		--duration "$(DURATION)" --schedule "$(SCHEDULE)" $(ELSEWHERE) $(ARGS)

.PHONY: capacity
capacity: $(RUN_STAMP) $(if $(TRITON),,$(TRITON_STAMP)) ## Find the highest rate within deploy/slo.toml, and the replicas for a rate (TARGET= NEED=)
	@$(BIN)/python -m load_test capacity $(TARGET) --need "$(NEED)" $(ELSEWHERE) $(ARGS)

.PHONY: bench
bench: setup ## Measure, print a table, write build/bench.json
	@$(BIN)/python tests/bench/run.py

.PHONY: fuzz
fuzz: $(STAMP) ## Send malformed requests to our servers (COUNT=1000000)
	@$(BIN)/python tests/fuzz/run.py --count $(or $(COUNT),1000000)

.PHONY: models
models: $(VENV)/.extras-cpu-dev-export ## Train and export every model and the index (DATA=../shared/data)
	@$(BIN)/python -m model_export all --data "$(DATA)"

.PHONY: vlm
vlm: $(VENV)/.extras-cpu-dev-export ## Train the small chart reader on generated charts (VLM_SEED=1 VLM_DEVICE=cpu|cuda; an hour and a half on two cores)
	@nice -n 19 $(BIN)/python -m model_export vlm --seed "$(or $(VLM_SEED),1)" --device "$(or $(VLM_DEVICE),cpu)"

.PHONY: detector
detector: $(VENV)/.extras-cpu-dev-export ## Train the chart pattern detector and export it (DATA=../shared/data DETECTOR_SEED=1; half an hour on one core)
	@nice -n 19 $(BIN)/python -m model_export detector --seed "$(or $(DETECTOR_SEED),1)" $(if $(wildcard $(DATA)/patterns_gap_yolo),--data "$(DATA)")

.PHONY: clean
clean: ## Remove everything that was built, the embedded database too
	@rm -rf build
