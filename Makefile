# make demo   see a trained network become a spiking one (about two minutes)
# make test   run the whole test suite, linters and type checks
# make clean  remove what these made

PYTHON ?= python3
SOURCES := pyproject.toml $(wildcard onnx2snn/*.py graph_passes/*.py runtime/*.py models/*)

.PHONY: demo test clean

demo: .venv-demo/installed
	.venv-demo/bin/onnx2snn demo

test: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	cd .venv-test && bin/mypy --config-file ../pyproject.toml -p onnx2snn
	.venv-test/bin/pytest

.venv-demo/installed: EXTRAS = cpu,plot
.venv-test/installed: EXTRAS = cpu,plot,dev

# Debian keeps ensurepip in a package of its own: where venv fails without it, it is installed.
%/installed: $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "onnx2snn needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $* || { rm -rf $*; apt-get update -qq && apt-get install -y -qq python3-venv \
		&& $(PYTHON) -m venv $*; }
	rm -rf build
	$*/bin/python -m pip install --quiet --disable-pip-version-check '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf .venv-demo .venv-test demo-out build *.egg-info
