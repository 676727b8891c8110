.PHONY: train-var sample-var evaluate-var

train-var: $(STAMP) ## the small world's next-scale model from nothing: tokenizer, reward, transformer
	@$(LAUNCH) tts_var.commands.train $(ARGS)

sample-var: $(STAMP) ## pictures with a search at test time; ARGS='prompts="two red circles left of a blue square"'
	@$(LAUNCH) tts_var.commands.sample $(ARGS)

evaluate-var: $(STAMP) ## prompts fulfilled and compute spent by every search strategy
	@$(LAUNCH) tts_var.commands.evaluate $(ARGS)

smoke:: $(STAMP)
	@$(BIN)/python -m tts_var.commands.sample name=smoke-var overwrite=true
	@test -s outputs/smoke-var/search.html
