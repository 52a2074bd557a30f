# Everything runs in a virtual environment of the checkout's own; nothing needs to be installed first
# but Python 3.11 (or newer), make and pip.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: serve test lint clean

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $(INSTALLED)

serve: $(INSTALLED)  ## serve the bundled model on port 30000: make serve ARGS="--model-path M"
	$(BIN)/led-sglang serve $(ARGS)

test: $(INSTALLED)  ## all tests, real servers included
	.ci/install-browser
	$(BIN)/pytest -q --numprocesses 2 --dist loadfile

lint: $(INSTALLED)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pip install --quiet --no-deps --upgrade --target build/typed .
	$(BIN)/mypy -p led_sglang

clean:
	rm -rf $(VENV) build dist *.egg-info
