# The commands of the README. Everything that they need is installed first; a second time nothing is.

# Node 24 from the lock file, whatever `node` is on PATH.
NODE := node_modules/.bin/node
CLI := $(NODE) cli/main.ts
# Where the demo stores its checkpoint: dir or s3.
STORE ?= dir
# Kills of `make chaos`, counted over all its runs.
KILLS ?= 60
STAMP := node_modules/.kybernate-stamp

export PATH := $(CURDIR)/node_modules/.bin:$(PATH)
export STORE

.DEFAULT_GOAL := help
.PHONY: help demo test e2e-kubernetes build check soak chaos gpu-bundle gpu-test setup down clean
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(STAMP) ## checkpoint and restore of a real redis (STORE=s3: in an S3 server instead of a directory)
	@$(CLI) setup --for demo$(if $(filter s3,$(STORE)),$(comma)s3)
	@$(NODE) examples/redis/demo.ts

test: $(STAMP) ## every check and every test; ends with `N passed, N failed`
	@$(CLI) setup --for test
	@$(NODE) tools/build.ts
	@$(NODE) tools/test-summary.ts

# Builds Kubernetes the first time, ten minutes. `make test` runs without it.
e2e-kubernetes: $(STAMP) ## the tests on a real Kubernetes cluster of this machine
	@$(CLI) setup --for test,kubernetes
	@$(NODE) tools/build.ts
	@$(NODE) tools/test-summary.ts kubernetes

build: $(STAMP) ## the installable package in dist/
	@$(NODE) tools/build.ts

check: $(STAMP) ## format, lint, layers, types, unit tests
	@$(NODE) tools/check.ts

soak: $(STAMP) ## the repeated tests in their full number
	@$(CLI) setup --for test
	@KYBERNATE_SOAK=1 $(NODE) tools/test-summary.ts temporal system

# Results add up over runs, until FRESH=1: a run that was interrupted goes on. SEED chooses events, moments and delays.
chaos: $(STAMP) ## kills everything at any moment, KILLS times, and looks what became of the workloads
	@$(CLI) setup --for test
	@$(NODE) test/chaos/main.ts --kills=$(KILLS) $(if $(SEED),--seed=$(SEED)) $(if $(FRESH),--fresh)

# KUBERNETES=1: a cluster, too, for `test/gpu/run.sh --kubernetes`.
gpu-bundle: $(STAMP) ## what gpu-test needs on a bare GPU machine, in .gpu-bundle/
	@$(CLI) setup --for test$(if $(KUBERNETES),$(comma)kubernetes)
	@$(NODE) tools/gpu-bundle.ts $(if $(KUBERNETES),--kubernetes)

# Needs no set-up: the machine has what gpu-bundle made elsewhere. CASES chooses, for example `CASES=cpu`.
gpu-test: ## the cases of test/gpu, on a machine with a GPU and .gpu-bundle/
	@test/gpu/run.sh $(CASES)

setup: $(STAMP) ## install what a node, the demo and the tests need
	@$(CLI) setup --for run,demo,s3,test,build

down: ## stop what the demo or `kybernate up` left running
	@if [ -x $(NODE) ]; then $(CLI) down; else echo 'nothing was running'; fi

clean: down ## stop everything, remove what was built
	@rm -rf dist dist.new node_modules/.cache/kybernate

comma := ,

$(STAMP): package-lock.json
	@tools/prerequisites.sh
	@echo 'npm ci: the packages of the lock file, Node 24 among them; says nothing for a minute or two'
	@npm ci --ignore-scripts --no-audit --no-fund --no-progress --loglevel=error
	@touch $@
