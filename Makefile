# make demo                       set everything up, then watch the rendered demo raise its alarm
# make demo SOURCES="gate=rtsp://… clip.mp4"    the same on your own sources
# make test                       set everything up, then run the tests (WORKERS=4 processes: many tests wait for others)
# make check                      lint, types and import direction
# make coverage                   lines and branches that the fast tests reach, reported

PYTHON ?= python3
VENV   ?= .venv
SOURCES ?=
RUN    ?= runs/demo
WORKERS ?= 4
BIN    := $(VENV)/bin

.PHONY: demo test check coverage setup setup-dev clean

demo: $(VENV)/.ready
	$(BIN)/python run_stream.py $(SOURCES) --run-dir $(RUN)

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

FAST := tests/alarms tests/config tests/events tests/client tests/models tests/reports tests/runtime tests/system tests/telemetry

coverage: $(VENV)/.ready-dev
	$(BIN)/python -m coverage run -m pytest -q $(FAST)
	$(BIN)/python -m coverage report --skip-covered --sort=cover

setup: $(VENV)/.ready
setup-dev: $(VENV)/.ready-dev

$(VENV)/.ready: pyproject.toml Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHON=$(BIN)/python sh .ci/install-torch.sh
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[openvino]'
	touch $@

# Both distributions of this repository, and TensorFlow for the reproduction of the paper.
$(VENV)/.ready-dev: $(VENV)/.ready packaging/trainer/pyproject.toml
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet \
		--editable '.[openvino,dev,web,mqtt,notify]' --editable './packaging/trainer[tensorflow]'
	touch $@

clean:
	rm -rf $(VENV) build packaging/trainer/build *.egg-info packaging/trainer/*.egg-info runs
