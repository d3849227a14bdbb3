# Everything runs in $(VENV), made on first use and brought up to date when pyproject.toml or constraints.txt changes.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e
PINS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help app test test-long test-gpu demo notebooks notebooks-run gallery transfer bench-app bench why results scale reliability docs lint clean

help: ## what there is to make
	@echo 'make TARGET [PYTHON=python3.12]'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' Makefile

app: $(VENV)/.installed-app ## open the app on the bundled pair; ARGS="--run runs/mine --port 8000" goes to it
	$(RUN) app/launch.py $(ARGS)

test: $(VENV)/.installed-test ## run the tests; ARGS goes to pytest
	$(RUN) -m pytest $(ARGS)

test-long: $(VENV)/.installed-test ## also what takes long: every model family, every pair, many kills
	$(RUN) -m pytest -m long $(ARGS)

test-gpu: $(VENV)/.installed-test ## what needs CUDA; skipped where there is none
	$(RUN) -m pytest -m gpu tests/gpu $(ARGS)

demo: $(VENV)/.installed-train ## train the bundled pair again; ARGS goes to the script
	$(RUN) benchmarks/demo.py $(ARGS)

notebooks: $(VENV)/.installed-notebooks ## open the notebooks in JupyterLab; ARGS goes to it
	$(RUN) -m jupyterlab $(ARGS) notebooks

notebooks-run: $(VENV)/.installed-test ## execute the notebooks and save their outputs; ARGS="03 07" for some
	$(RUN) benchmarks/notebooks.py $(ARGS)

gallery: $(VENV)/.installed-test ## draw docs/gallery.md again
	$(RUN) benchmarks/gallery.py $(ARGS)

transfer: $(VENV)/.installed-test ## analyse the bundled run again: docs/transfer.md; half an hour
	$(RUN) benchmarks/transfer.py $(ARGS)

bench-app: $(VENV)/.installed-test ## measure the app again; ARGS="server load" for parts
	PYTHONPATH=app:tests $(RUN) benchmarks/app.py $(ARGS)

bench: $(VENV)/.installed-test ## measure speed again, row by row: docs/performance.md; ARGS names rows
	$(RUN) benchmarks/speed.py $(ARGS)
	test -n "$(ARGS)" || $(RUN) benchmarks/growth.py
	$(RUN) benchmarks/performance.py

why: $(VENV)/.installed-test ## measure the bands of the students that the benchmark trained
	$(RUN) benchmarks/why.py $(ARGS)

results: $(VENV)/.installed-test ## make docs/results.md from the tables in benchmarks/results
	$(RUN) benchmarks/results.py

scale: $(VENV)/.installed-train ## reckon the recipes at paper scale again: docs/scale.md
	$(RUN) benchmarks/scale.py

reliability: $(VENV)/.installed-test ## try every input again for the table of docs/reliability.md
	PYTHONPATH=tests $(RUN) benchmarks/reliability.py

docs: $(VENV)/.installed-docs ## build the documentation into site/; opens offline
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: $(VENV)/.installed-test ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean: ## remove the environment and all caches; runs/ stays
	rm -rf $(VENV) build site dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .gradio
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed-app: $(PINS) | $(RUN)
	$(INSTALL) ".[app]"
	@touch $@

# Holds what the app needs too, so that `make app` after `make test` installs nothing.
$(VENV)/.installed-test: $(PINS) | $(RUN)
	$(INSTALL) ".[app,test]"
	@touch $(VENV)/.installed-app $@

$(VENV)/.installed-docs: $(PINS) | $(RUN)
	$(INSTALL) ".[docs]"
	@touch $@

# Holds what the app needs too, since the last notebook opens it.
$(VENV)/.installed-notebooks: $(PINS) | $(RUN)
	$(INSTALL) ".[notebooks]"
	@touch $(VENV)/.installed-app $@

$(VENV)/.installed-train: $(PINS) | $(RUN)
	$(INSTALL) ".[train]"
	@touch $@

$(RUN):
	@command -v $(PYTHON) >/dev/null || { \
		echo 'There is no $(PYTHON): install Python 3.11 or newer, or name one, make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): name another, make PYTHON=python3.12 …" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
		echo '$(PYTHON) cannot make environments: on Debian or Ubuntu, apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
