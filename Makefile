# make demo   see a trained network become a spiking one (about a minute on two cores, once it is installed)
# make test   run the whole test suite, linters and type checks
# make test-exporters  build small networks with PyTorch, Keras, JAX and scikit-learn, each in a
#             virtual environment of its own (5 GB), and convert what they export
# make test-web  install Chromium and ONNX Runtime Web and test the page of examples/web
# make clean  remove what these made

PYTHON ?= python3
FOLDERS := onnx2snn graph_passes runtime
SOURCES := pyproject.toml $(wildcard $(FOLDERS:%=%/*.py) $(FOLDERS:%=%/*/*.py) models/*)

EXPORTERS := torch keras jax sklearn

.PHONY: demo test test-exporters test-web clean

demo: .venv-demo/installed
	.venv-demo/bin/onnx2snn demo

test: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	cd .venv-test && bin/mypy --config-file ../pyproject.toml -p onnx2snn
	.venv-test/bin/pytest -n auto

# Models and samples come to a temporary folder; those in tests/exporters/models stay.
test-exporters: .venv-test/installed $(EXPORTERS:%=.venv-exporter-%/installed)
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && for name in $(EXPORTERS); do \
		TF_CPP_MIN_LOG_LEVEL=3 .venv-exporter-$$name/bin/python \
			tests/exporters/build_$$name.py "$$folder" || exit 1; \
	done && ONNX2SNN_EXPORTERS="$$folder" .venv-test/bin/pytest -m exporters

test-web: .venv-test/installed
	command -v chromium npm > /dev/null || { apt-get update -qq \
		&& apt-get install -y -qq chromium npm; }
	cd examples/web && npm install --no-audit --no-fund --silent
	.venv-test/bin/pytest -m web -rs

.venv-exporter-%/installed: tests/exporters/requirements-%.txt | .venv-test/installed
	$(PYTHON) -m venv --clear .venv-exporter-$*
	.venv-exporter-$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

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
	rm -rf .venv-demo .venv-test .venv-exporter-* demo-out build *.egg-info
