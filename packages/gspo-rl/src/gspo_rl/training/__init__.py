"""The supervised phase before reinforcement learning."""
