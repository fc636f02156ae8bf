"""Schedules, optimizers, parameter groups, and the chain made of them."""
