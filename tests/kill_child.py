"""A run for test_kill.py to kill: evaluates and saves all the time. `python kill_child.py WORKDIR`."""

import sys

from helpers import tiny_run

from jtrain.loop import train

STEPS = 600

if __name__ == "__main__":
    run = tiny_run(f"{STEPS}steps", train__eval_every="7steps", checkpoint__every="4steps", log__every="3steps")
    train(run, sys.argv[1])
