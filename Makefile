# Everything runs in a virtual environment of the checkout's own; nothing needs to be installed first
# but Python 3.11 (or newer), make and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

# make tiny-reasoner LEVEL=budget: the harder level, whose models lie in examples/tiny_reasoner/models.
LEVEL ?= search
TINY := build/tiny_reasoner$(if $(filter-out search,$(LEVEL)),-$(LEVEL))
SFT_search :=
RL_search :=
SFT_budget := --rescale --model led_sglang/models/tiny-reasoner-sft --examples 20000 --learning-rate 1e-3
RL_budget := --steps 400
TINY_RUN := PYTHONPATH=examples $(BIN)/python -m tiny_reasoner

REAL := build/real_model

FIRST_LIGHT := build/first-light

.PHONY: serve test lint imports clean first-light tiny-reasoner reproduce-tiny rl-rollouts real-model \
	wheelhouse

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $(INSTALLED)

serve: $(INSTALLED)  ## serve the bundled model on port 30000: make serve ARGS="--model-path M"
	$(BIN)/led-sglang serve $(ARGS)

test: $(INSTALLED)  ## all tests, real servers included
	.ci/install-browser
	.ci/install-transfer-libraries
	$(BIN)/pytest -q --numprocesses 2 --dist loadfile

# Each stage of the tiny reasoner is a file; a stage that was interrupted goes on where it stopped.
$(TINY)/held_out.jsonl: $(INSTALLED)
	$(TINY_RUN).data --level $(LEVEL) --out $(TINY)

$(TINY)/sft/trainer_state.json: | $(TINY)/held_out.jsonl
	$(TINY_RUN).sft --level $(LEVEL) --data $(TINY) --out $(TINY)/sft $(SFT_$(LEVEL))

$(TINY)/rl/trainer_state.json: | $(TINY)/sft/trainer_state.json
	$(TINY_RUN).rl --level $(LEVEL) --data $(TINY) --model $(TINY)/sft/model --out $(TINY)/rl \
		$(RL_$(LEVEL))

tiny-reasoner: $(TINY)/rl/trainer_state.json  ## train the tiny reasoner: data, SFT, GRPO, plot
	$(TINY_RUN).curves --sft $(TINY)/sft --rl $(TINY)/rl --out $(TINY)/training.png
	$(TINY_RUN).measure --level $(LEVEL) --data $(TINY) --model $(TINY)/sft/model
	$(TINY_RUN).measure --level $(LEVEL) --data $(TINY) --model $(TINY)/rl/model

# An interrupted run goes on when it is started again; its folder in build removed, it starts anew.
reproduce-tiny: LEVEL = budget
reproduce-tiny: $(INSTALLED)  ## measure every method on the tiny reasoner, write its RESULTS.md
	$(TINY_RUN).reproduce --level $(LEVEL) --out build/reproduce-$(LEVEL)

# An interrupted run goes on as well.
rl-rollouts: $(INSTALLED)  ## GRPO with a server's rollouts, three arms (examples/rl_rollouts)
	PYTHONPATH=examples $(BIN)/python -m rl_rollouts.run --out build/rl_rollouts

# Both go on as well: what is finished is not made again.
real-model: $(INSTALLED)  ## SmolLM2-135M from a package of 93 MB: checkpoint, plots and a trace
	PYTHONPATH=examples $(BIN)/python -m real_model.build --out $(REAL)
	PYTHONPATH=examples $(BIN)/python -m real_model.look --model $(REAL)/SmolLM2-135M-Instruct \
		--out $(REAL)

lint: $(INSTALLED)  ## ruff and import-linter (the hooks of pre-commit), and mypy
	$(BIN)/pre-commit run --all-files
	$(BIN)/mypy -p led_sglang

# Over an installed copy, which mypy reads as well: only there do all folders stand under one name.
imports: $(INSTALLED)  ## who may import whom, checked by import-linter
	rm -rf build/typed build/lib
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/typed .
	cd build/typed && ../../$(BIN)/lint-imports --config ../../pyproject.toml

# PYTHON names the version of the host without network: make wheelhouse PYTHON=3.12 PART_MB=60
HOUSE := build/wheelhouse-venv/bin/python
wheelhouse:  ## every wheel the package needs, in parts, for a host without network
	$(if $(filter 3.%,$(PYTHON)),python3,$(PYTHON)) -m venv build/wheelhouse-venv
	$(HOUSE) -m benchmarks.wheelhouse $(if $(filter 3.%,$(PYTHON)),--python $(PYTHON)) \
		$(if $(PART_MB),--part-mb $(PART_MB)) --out build/wheelhouse

# Part A needs no installation: python -m benchmarks.first_light --out DIR --only A
first-light: $(INSTALLED)  ## the first minutes on a GPU: make first-light ARGS="--only A"
	$(BIN)/python -m benchmarks.first_light --out $(FIRST_LIGHT) $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info
