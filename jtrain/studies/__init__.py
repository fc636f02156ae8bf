"""Studies: questions that practitioners ask, answered by running the one step or the one loop."""
