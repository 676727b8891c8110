.PHONY: train-cinema generate-cinema evaluate-cinema

# Two processes unless the caller says otherwise: the run is long enough to notice and short enough to wait for.
train-cinema: NPROC := $(if $(filter file,$(origin NPROC)),$(if $(filter -m --multirun,$(ARGS)),1,2),$(NPROC))
train-cinema: $(STAMP) ## Captain Cinema: a keyframe model with a memory, from nothing, and its first film
	@$(LAUNCH) captain_cinema.commands.train $(ARGS)

generate-cinema: $(STAMP) ## a storyline becomes a film; ARGS='storyline="ada meets bo in the kitchen; bo leaves"'
	@$(LAUNCH) captain_cinema.commands.generate $(ARGS)

evaluate-cinema: $(STAMP) ## who and what comes back right, by memory, length and gap, beside its ceiling
	@$(LAUNCH) captain_cinema.commands.evaluate $(ARGS)

smoke:: $(STAMP)
	@$(BIN)/python -m captain_cinema.commands.generate name=smoke-cinema overwrite=true
	@test -s outputs/smoke-cinema/storyboard.html
