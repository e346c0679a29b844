# Everything starts here: `make run` shows the worker at work, `make test` checks it. Both set up what they need.
PYTHON ?= python3.11
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/famulus
UV_VERSION := 0.13.9# and its hashes in deploy/uv.lock.txt
UV := $(CACHE)/uv-$(UV_VERSION)/bin/uv
BIN := .venv/bin

# uv does not read pip's settings: hand over the index that pip uses, where one is set.
INDEX := $(or $(UV_DEFAULT_INDEX),$(PIP_INDEX_URL),$(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null))
ifneq ($(INDEX),)
export UV_DEFAULT_INDEX := $(INDEX)
endif
export UV_PYTHON_DOWNLOADS := never
export UV_COMPILE_BYTECODE := 1

SCALE ?= 0.01
DUPLICATES ?= 25
POISON ?= 5
PROCESSES ?= 4

.PHONY: help install run dev worker shell test lint screenshots chaos kills torture bench chart lock lock-jars clean secrets test-docker check-deploy audit sbom

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install: .venv/installed  ## set up .venv from the lock file

run: .venv/installed  ## carry real orders on a real Kafka (SCALE= DUPLICATES= POISON= SAMPLE= SUMMARY= KEEP=1)
	@$(BIN)/python -m demo.orders --scale $(SCALE) --duplicates $(DUPLICATES) --poison $(POISON) \
		$(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SUMMARY),--summary $(SUMMARY)) $(if $(KEEP),--keep)

dev: .venv/installed  ## your app at work: a Kafka, its topics and a worker, which starts again whenever you save a file
	@$(BIN)/faust -A app dev

worker: .venv/installed  ## a worker of your app, on the broker of the settings
	@$(BIN)/faust -A app worker -l info

shell: .venv/installed  ## a shell in which `faust`, `python` and `honcho` are those of .venv
	@PATH="$(CURDIR)/$(BIN):$$PATH" exec "$${SHELL:-bash}"

test: .venv/installed lint  ## run every check and every test, PROCESSES=4 at a time (ARGS= goes to pytest)
	@$(BIN)/python -m famulus.dev.class_archive  # makes the start of some forty brokers shorter
	@$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadgroup $(ARGS)

lint: .venv/installed  ## style, types and the house's import rules
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo >.venv/imports.log || { cat .venv/imports.log; exit 1; }

chaos: .venv/installed  ## workers that join, leave, die and freeze, ROUNDS=20 times each, about 20 minutes
	@FAULT_ROUNDS=$(or $(ROUNDS),20) $(BIN)/pytest -s tests/integration/test_faults.py

kills: .venv/installed  ## workers killed at each step around dead letters and published events, ROUNDS=13 times each
	@KILL_ROUNDS=$(or $(ROUNDS),13) $(BIN)/pytest -s tests/integration/test_failures_killed.py \
		tests/integration/test_publish_handlers.py

torture: .venv/installed  ## hurt workers and all they stand on, count every payment (SCENARIO=kills|zombie|broker|handlers|network|corrupt|disk|others|clock|junk|membership|limits|all KILLS= SEED= WORKERS=1,3 EVENTS= SYSTEM=)
	@$(BIN)/python -m torture.run $(if $(SCENARIO),--scenario $(SCENARIO)) $(if $(SYSTEM),--system $(SYSTEM)) \
		$(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) $(if $(WORKERS),--workers $(WORKERS)) \
		$(if $(EVENTS),--events $(EVENTS)) $(ARGS)

bench: .venv/bench/installed  ## beside other systems (WORKLOADS= SYSTEMS= ROUNDS= EVENTS= PARTITIONS= MARKS=)
	@BENCH_PYTHON=.venv/bench/bin/python $(BIN)/python -m bench.run $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(WORKLOADS),--workloads $(WORKLOADS)) $(if $(SYSTEMS),--systems $(SYSTEMS)) \
		$(if $(EVENTS),--events $(EVENTS)) $(if $(PARTITIONS),--partitions $(PARTITIONS)) $(if $(MARKS),--marks $(MARKS))
	@.venv/bench/bin/python -m bench.chart

chart: .venv/bench/installed  ## bench/results.svg and the table in README.md, from bench/results.json
	@.venv/bench/bin/python -m bench.chart

.venv/bench/installed: bench/requirements.lock .venv/installed
	@$(UV) venv --quiet --clear --python $(PYTHON) .venv/bench
	@$(UV) pip sync --quiet --python .venv/bench --require-hashes bench/requirements.lock
	@touch $@

screenshots: .venv/installed  ## docs/console-*.png, the pictures of the console in README.md; needs chromium
	@$(BIN)/python -m demo.screenshots

secrets: deploy/secrets/tokens.env  ## random tokens for docker-compose.yml, unless they are there

deploy/secrets/web-%-token:  # whoever has nothing but Docker and make can do it
	@mkdir -p -m 0700 deploy/secrets  # which guards the files: Prometheus and Grafana have other users and must read them
	@head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' >$@ && echo >>$@

deploy/secrets/tokens.env: deploy/secrets/web-read-token deploy/secrets/web-admin-token
	@umask 077 && printf 'WORKER__READTOKEN=%s\nWORKER__ADMINTOKEN=%s\n' $$(cat $^) >$@

# What a broker has a say in.
WITH_A_BROKER := worker fetch failures dead_letters_return state state_dedupe state_members state_rows operate \
	envelope clients publish publish_handlers publish_errors requests schedule lag lag_beside_kafka

# Ryuk, which clears up after tests that were killed, would be one more image to pull; `docker ps` shows what stayed.
test-docker: export TESTCONTAINERS_RYUK_DISABLED ?= true
test-docker: .venv/installed secrets  ## the image and docker-compose.yml at work, then tests against a Kafka in a container (PYTHON_IMAGE= KAFKA_IMAGE=)
	@docker info >/dev/null 2>&1 || { echo "test-docker: no Docker daemon answers"; exit 69; }
	@$(BIN)/pytest -v tests/docker
	@$(BIN)/pytest --numprocesses $(PROCESSES) --dist loadgroup --kafka-image $(or $(KAFKA_IMAGE),confluentinc/cp-kafka:8.1.0) \
		$(or $(ARGS),$(wildcard $(WITH_A_BROKER:%=tests/integration/test_%.py)))

check-deploy: .venv/installed  ## what Prometheus and systemd say to deploy/; needs promtool, systemd-analyze (Debian: prometheus, systemd)
	@command -v systemd-analyze >/dev/null || { echo "systemd-analyze is missing: apt-get install systemd"; exit 69; }
	@folder=$$(mktemp -d) && trap 'rm -r '$$folder EXIT && sed 's|^ExecStart=.*|ExecStart=/bin/true|; s|^WorkingDirectory=.*||' \
		deploy/systemd/famulus@.service >$$folder/famulus@6066.service && \
		systemd-analyze verify --man=no $$folder/famulus@6066.service && \
		systemd-analyze security --offline=true --threshold=25 --no-pager $$folder/famulus@6066.service >$$folder/found || \
		{ cat $$folder/found; exit 1; }
	@command -v promtool >/dev/null || { echo "promtool is missing: apt-get install prometheus"; exit 69; }
	@promtool check config --syntax-only deploy/prometheus/prometheus.yml
	@$(if $(wildcard deploy/prometheus/rules*.yml),promtool check rules deploy/prometheus/rules*.yml)
	@$(if $(wildcard deploy/prometheus/*.test.yml),promtool test rules deploy/prometheus/*.test.yml)
	@$(BIN)/pytest -q tests/unit/test_deploy.py
	@! grep -nE '^ARG [A-Z]+_IMAGE=|^ *image: [a-z]+/' Dockerfile docker-compose.yml | grep -v '@sha256:' || \
		echo "these images are pinned by tag, not by digest: SECURITY.md says how to pin them"

audit: .venv/installed  ## known faults of the packages in the lock files (exceptions: deploy/audit.toml)
	@$(BIN)/python -m famulus.dev.audit

sbom: .venv/installed  ## sbom.json: what is in the image, as CycloneDX
	@$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file sbom.json deploy/requirements.lock

lock-jars: .venv/installed  ## renew famulus/dev/jars.lock from the jars in the cache folder: look at what changes
	@$(BIN)/python -c 'from famulus.dev.jars import KAFKA, LOCK, lines_of; import platformdirs; \
		cache = platformdirs.user_cache_path("famulus"); \
		LOCK.write_text("".join(f"{line}\n" for name in ("kafka", "kafka-tools") \
			for line in lines_of(name, cache / f"{name}-{KAFKA}")))'

lock: $(UV)  ## renew requirements.lock and bench/requirements.lock from pyproject.toml
	@$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--extra dev --group dev --upgrade pyproject.toml --output-file requirements.lock
	@$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--constraint requirements.lock pyproject.toml --output-file deploy/requirements.lock
	@$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--group bench --output-file bench/requirements.lock

clean:  ## remove what was made here (the download caches stay)
	@rm -rf .venv data .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install Python 3.11, or say make PYTHON=python3.12"; exit 78; }
	@echo "setting up uv $(UV_VERSION), once"
	@$(PYTHON) -m venv $(CACHE)/uv-$(UV_VERSION) && $(CACHE)/uv-$(UV_VERSION)/bin/python -m pip install --quiet --require-hashes -r deploy/uv.lock.txt

# The cache alone is tried first: a clean clone needs no network when an earlier one has filled it.
.venv/installed: requirements.lock pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	@$(UV) pip sync --quiet --offline --python .venv --require-hashes requirements.lock 2>/dev/null \
		|| { echo "installing the packages of requirements.lock"; \
		$(UV) pip sync --python .venv --require-hashes requirements.lock; }
	@$(UV) pip install --quiet --offline --python .venv --no-deps --no-build-isolation --editable .
	@touch $@
