# make demo: compile the question router, verify its bundle, ask it something. make demo-generate: voice commands to JSON with llama.cpp, likewise.
# make test: the tests. All set up what they need.
SHELL := /bin/bash
RUN := .venv/bin
APP := sample_apps/question_router
OUT := out/question-router
VOICE := sample_apps/voice_commands
SAID := out/voice-commands/laptop-x86-llama

.PHONY: demo demo-generate test test-long test-demo lint docs bench setup clean

demo:
	@scripts/setup.sh
	$(RUN)/edgedistill compile $(APP)/recipe.toml --out $(OUT)
	$(RUN)/edgedistill verify $(OUT)/laptop-x86/bundle
	$(RUN)/python $(APP)/ask.py "Who wrote Hamlet ?" "How far is the moon from the earth ?" "What does NASA stand for ?"
	@echo
	@echo "Report: $(OUT)/laptop-x86/report.html   Bundle: $(OUT)/laptop-x86/bundle"
	@echo "Ask it yourself: $(RUN)/python $(APP)/ask.py \"Where is Timbuktu ?\""

demo-generate:
	@scripts/setup.sh generate
	[ -f $(VOICE)/data/train.jsonl ] || $(RUN)/python $(VOICE)/make_data.py
	$(RUN)/edgedistill compile $(VOICE)/recipe.toml --out out/voice-commands
	$(RUN)/edgedistill verify $(SAID)/bundle
	$(RUN)/python $(VOICE)/ask.py --bundle $(SAID)/bundle "turn the kitchen lights to 40 percent" "please switch off the heater in the garage"
	@echo
	@echo "Report: $(SAID)/report.html   Bundle: $(SAID)/bundle"

# Two files of tests at a time. One thread each: two pools of threads on the same cores are slower than none.
test:
	@scripts/setup.sh tests
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist loadfile

test-long:
	@scripts/setup.sh tests
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m long -n 2 --dist loadfile

test-demo:
	@scripts/setup.sh tests
	$(RUN)/python -m pytest -m demo

lint:
	@scripts/setup.sh tests
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

docs:
	@scripts/setup.sh tests
	$(RUN)/python scripts/docs.py

bench:
	@scripts/setup.sh tests
	$(RUN)/python -m tests.benchmarks.all

setup:
	@scripts/setup.sh tests

clean:
	rm -rf .venv out build dist *.egg-info
