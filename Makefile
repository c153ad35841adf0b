# `make demo` and `make test` are each enough on a fresh machine with Python 3.11 and make; `make check` is for daily work.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: demo demo-lidar test check setup image clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@

demo: setup
	PATH="$(abspath $(VENV))/bin:$$PATH" bash experiments/scene_flow/demo.sh

demo-lidar: setup
	PATH="$(abspath $(VENV))/bin:$$PATH" bash experiments/lidar/demo.sh

test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(RUN) -m pytest

# The linter, and the tests that take seconds.
check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(RUN) -m pytest -m "not slow"

image:
	docker build --build-arg GIT_COMMIT="$$(git describe --always --abbrev=40 --dirty=-modified --exclude='*')" \
	  --tag distill3d .

clean:
	rm -rf $(VENV) runs
