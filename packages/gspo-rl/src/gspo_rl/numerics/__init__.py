"""The paper's mathematics: log-probabilities, advantages and objectives; one equation, one function."""
