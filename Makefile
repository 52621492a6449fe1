# make demo: the whole road on drawn hands, about ten minutes on two cores.   make test: all tests.   make kill-test: kills at random moments.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test kill-test install clean

$(VENV)/.installed: requirements.txt requirements-dev.txt requirements-optional.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

install: $(VENV)/.installed

demo: install
	$(BIN)/python examples/demo.py

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

kill-test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.kill --kills 20

clean:
	rm -rf $(VENV) logs/demo data/demo
