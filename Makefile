# The words people type. The work itself is in tools/, .ci/run and CMakePresets.json.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: build serve model-there test bench lint fuzz clean help

# make serve
WORKERS ?=
PORT ?= 8000
MODEL ?= demo
ARGS ?=
# make test
STAGES ?=
# make fuzz
FUZZ_SECONDS ?= 60

say := @. tools/lib.sh; say

build:
	@tools/setup.sh
	@tools/llama.sh >/dev/null
	$(say) "penstock: compiling (minutes the first time, then only what changed)"
	@cmake --preset release --log-level=WARNING \
	  $(if $(wildcard build/CMakeCache.txt),,-DPENSTOCK_TESTS=OFF) >/dev/null
	@cmake --build build --target penstock
	$(say) "penstock: built, build/penstock"

serve: model-there build
	@set -- build/penstock serve --model "$(MODEL)" --port $(PORT) \
	  $(if $(WORKERS),--workers $(WORKERS)) $(ARGS); \
	printf '==> %s\n' "$$*" "stop it with Ctrl-C"; \
	exec "$$@"

# Before minutes of building, not after.
model-there:
	@case "$(MODEL)" in demo | simulated) ;; *) [ -e "$(MODEL)" ] || \
	  { printf 'error: %s\n' "MODEL=$(MODEL): no such file or folder" >&2; exit 1; } ;; esac

test:
	@.ci/run $(STAGES)

bench: build
	@tools/setup.sh --bench
	@tools/llama.sh --server >/dev/null
	@tools/model.sh >/dev/null
	@for script in bench/*/run.sh; do printf '==> %s\n' "$$script"; "$$script" || exit 1; done

lint:
	@tools/setup.sh --test
	@tools/llama.sh >/dev/null
	$(say) "format: clang-format (mend with: clang-format-19 -i FILE)"
	@git ls-files -co --exclude-standard '*.h' '*.cc' | xargs clang-format-19 --dry-run -Werror
	$(say) "lint: clang-tidy over every file, then only over what changed"
	@cmake --preset tidy --log-level=WARNING >/dev/null
	@cmake --build --preset tidy

fuzz:
	@tools/setup.sh --test
	@tools/llama.sh >/dev/null
	@cmake --preset fuzz --log-level=WARNING >/dev/null
	@cmake --build --preset fuzz
	@tools/fuzz.sh build-asan/fuzz $(FUZZ_SECONDS)

clean:
	rm -rf build build-dev build-asan build-tsan build-tidy
	$(say) "kept: llama.cpp, the demo model and SDKs in $$(. tools/lib.sh; penstock_cache)"

help:
	@printf '%s\n' \
	  'make serve   set everything up, build, and serve a small real model on port 8000' \
	  '               make serve PORT=9000 WORKERS=2' \
	  '               make serve MODEL=~/models/llama.gguf ARGS="--api-key-file keys.txt"' \
	  'make build   set up and build build/penstock' \
	  'make test    everything CI runs: all tests, sanitizers, fuzzing, official SDKs' \
	  '               make test STAGES="setup release test"   only the release build' \
	  'make bench   measure beside the floor and the peers (bench/README.md)' \
	  'make lint    clang-format and clang-tidy over everything' \
	  'make fuzz    fuzz each parser; make fuzz FUZZ_SECONDS=600 for longer' \
	  'make clean   remove what was built here' \
	  '' \
	  'then ask it something:' \
	  '  curl localhost:8000/v1/chat/completions -H "Content-Type: application/json" \' \
	  '    -d '"'"'{"model": "demo", "messages": [{"role": "user", "content": "Hello!"}]}'"'"
