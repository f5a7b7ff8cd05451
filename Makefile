# Two commands do all the set-up: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000

.PHONY: demo test lint client bench-api bench-sync bench-pricing bench-prices bench-credits clean

demo: $(VENV)/ready
	@$(BIN)/python manage.py demo --port $(PORT)

test: $(VENV)/ready-dev
	@$(BIN)/python .ci/test.py

lint: $(VENV)/ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run

bench-api: $(VENV)/ready-dev
	@$(BIN)/python -m benchmarks.bench_api $(ARGS)

bench-sync: $(VENV)/ready-dev
	@$(BIN)/python -m benchmarks.bench_sync $(ARGS)

bench-credits: $(VENV)/ready-dev
	@$(BIN)/python -m benchmarks.bench_credits $(ARGS)

bench-pricing: $(VENV)/ready-dev
	@$(BIN)/python -m benchmarks.bench_pricing $(ARGS)

bench-prices: $(VENV)/ready-dev
	@$(BIN)/python -m benchmarks.bench_prices $(ARGS)

$(VENV)/ready: requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) var

client: $(VENV)/ready-dev
	@$(BIN)/python manage.py browser_client
