"""The training notes as judges: pure functions, numbers in, verdicts out."""
