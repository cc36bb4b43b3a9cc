PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Without what it asks for: torchvision, which nothing here needs and which comes for every torch in another build.
INCEPTION := 'torch-fidelity>=0.4'

.PHONY: app test lint notebooks book inception clean

app: $(VENV)/.installed  ## Open the app on the checkpoint that ships with the project
	$(RUN) app.py $(ARGS)

test: $(VENV)/.installed-dev  ## Run all tests, a process a core (four at most), a file at a time
	$(RUN) -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile $(ARGS)

lint: $(VENV)/.installed-dev  ## Check style, format, and who imports whom
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-cache --no-logo

notebooks: $(VENV)/.installed  ## Open the course in JupyterLab
	$(RUN) -m dit_lab course
	$(VENV)/bin/jupyter lab notebooks

book: $(VENV)/.installed-dev  ## Build the course as a static site, build/book/html/index.html
	$(RUN) notebooks/book.py

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(RUN) -m pip install --quiet -r requirements-dev.txt
	$(RUN) -m pip install --quiet --no-deps $(INCEPTION)
	touch $@

inception: $(VENV)/.installed  ## Add the network that FID is measured with (its weights are fetched by hand, see README)
	$(RUN) -m pip install --quiet --no-deps $(INCEPTION)

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) .pytest_cache .ruff_cache build *.egg-info
