.PHONY: train-cinema generate-cinema evaluate-cinema

# Two processes by default (one for sweeps), unless NPROC is set: the run takes minutes.
train-cinema: NPROC := $(if $(filter file,$(origin NPROC)),$(if $(filter -m --multirun,$(ARGS)),1,2),$(NPROC))
train-cinema: $(STAMP) ## Captain Cinema: trains a keyframe model with a memory from scratch and generates a film
	@$(LAUNCH) captain_cinema.commands.train $(ARGS)

generate-cinema: $(STAMP) ## generates a film from a storyline; ARGS='storyline="ada meets bo in the kitchen; bo leaves"'
	@$(LAUNCH) captain_cinema.commands.generate $(ARGS)

evaluate-cinema: $(STAMP) ## accuracy of reappearing characters and sets by memory, length and gap, with upper bounds
	@$(LAUNCH) captain_cinema.commands.evaluate $(ARGS)

smoke:: $(STAMP)
	@$(BIN)/python -m captain_cinema.commands.generate name=smoke-cinema overwrite=true
	@test -s outputs/smoke-cinema/storyboard.html
