"""Training stages of the keyframe model and the video model, which depend on contracts only."""
