"""The paper's mathematics: rectified flow, hybrid masks, GoldenMem, retrieval and the curriculum; one equation, one function."""
