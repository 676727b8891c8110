"""Training of the keyframe model and of the video model, typed on contracts."""
