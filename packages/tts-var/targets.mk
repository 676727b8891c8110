.PHONY: train-var sample-var evaluate-var

train-var: $(STAMP) ## the small world's next-scale model from scratch: tokenizer, reward, transformer
	@$(LAUNCH) tts_var.commands.train $(ARGS)

sample-var: $(STAMP) ## images with a search at test time; ARGS='prompts="two red circles left of a blue square"'
	@$(LAUNCH) tts_var.commands.sample $(ARGS)

evaluate-var: $(STAMP) ## fraction of fulfilled prompts and compute of every search strategy
	@$(LAUNCH) tts_var.commands.evaluate $(ARGS)

smoke:: $(STAMP)
	@$(BIN)/python -m tts_var.commands.sample name=smoke-var overwrite=true
	@test -s outputs/smoke-var/report.html
