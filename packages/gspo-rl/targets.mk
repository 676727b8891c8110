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
