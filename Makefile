# What we type twice. `make help` lists it.

PYTHON ?= python3
VENV   := .venv
STAMP  := $(VENV)/installed.txt
ESTATE := $(VENV)/bin/python -m deploy.local
CODE   := cloud gateway identity movie customer payment notification deploy bench tests

export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help
.PHONY: help setup up down status logs journey restart clean ops ops-down check format test swap bench idle rolling storm push fuzz lock

help:            ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## .venv from requirements/dev.txt, hashes checked

$(STAMP): requirements/dev.txt deploy/setup
	@deploy/setup $(PYTHON) $(VENV)

up: $(STAMP)     ## start the estate (what is missing is installed first) and walk the journey
	@$(ESTATE) up

down: $(STAMP)   ## stop everything, leave no process behind
	@$(ESTATE) down

status: $(STAMP) ## what runs, and where
	@$(ESTATE) status

logs: $(STAMP)   ## logs, of one service with SERVICE=payment
	@$(ESTATE) logs $(SERVICE)

journey: $(STAMP) ## a customer's journey through the running estate
	@$(ESTATE) journey

restart: $(STAMP) ## restart one service: SERVICE=payment
	@$(ESTATE) restart $(SERVICE)

clean: $(STAMP)  ## stop everything and remove all data
	@$(ESTATE) clean

ops: $(STAMP)    ## Zipkin, Prometheus, Elasticsearch with rsyslog, Spring Boot Admin
	@$(ESTATE) ops

ops-down: $(STAMP) ## stop those again
	@$(ESTATE) ops-down

check: $(STAMP)  ## ruff, mypy, import-linter
	@$(VENV)/bin/ruff check $(CODE)
	@$(VENV)/bin/ruff format --check $(CODE)
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: $(STAMP) ## ruff's formatter and fixes
	@$(VENV)/bin/ruff check --fix $(CODE)
	@$(VENV)/bin/ruff format $(CODE)

test: check      ## check, unit, contract and system tests, on servers that the run starts itself
ifdef TESTS
	@$(VENV)/bin/python -m pytest $(TESTS)
else
	@# First what shares servers, in two processes; then what stops and starts them.
	@NOZIE_TEST_KEEP=1 $(VENV)/bin/python -m pytest -n 2 --dist loadscope \
	  -m "not system and not swap"; first=$$?; \
	$(VENV)/bin/python -m pytest -m "system and not swap" && exit $$first
endif

swap: $(STAMP)   ## the journey with each service in turn replaced by a JVM one (3 minutes)
	@$(VENV)/bin/python -m pytest -m swap tests/estate $(TESTS)

bench: $(STAMP)  ## our gateway, Spring Cloud Gateway and nginx, measured in turns (14 minutes)
	@$(VENV)/bin/python -m bench $(BENCH)

storm: $(STAMP)  ## 10,000 payments while processes are killed and servers restarted, then counted
	@$(VENV)/bin/python -m bench.payments $(STORM)

idle: $(STAMP)   ## 2,000 streams and 10,000 connections that rest: memory, and whether others notice
	@$(VENV)/bin/python -m bench.idle $(IDLE)

rolling: $(STAMP) ## a service restarted one by one under 200 requests a second, and who noticed
	@$(VENV)/bin/python -m bench.rolling $(ROLLING)

push: $(STAMP)   ## how long from a payment's 201 to its event on the buyer's stream
	@$(VENV)/bin/python -m bench.push $(PUSH)

fuzz: $(STAMP)   ## what all OpenAPI documents allow and forbid, asked through the gateway (4 minutes)
	@$(VENV)/bin/python -m bench.fuzz $(FUZZ)

lock: $(STAMP)   ## compile requirements/*.in to hashed *.txt
	@for file in requirements/*.in; do \
	  echo $$file; \
	  (cd requirements && ../$(VENV)/bin/pip-compile -q --allow-unsafe --generate-hashes --strip-extras \
	    --no-emit-index-url --no-emit-find-links --no-emit-trusted-host $$(basename $$file)) || exit 1; \
	done
