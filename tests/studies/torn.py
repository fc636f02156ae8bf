"""Examples of which some cannot be read."""

import numpy as np

from jtrain.data.examples import ArrayExamples, BrokenRecord


class Torn(ArrayExamples):
    """Inputs of the examples numbered `torn` cannot be read."""

    def __init__(self, inputs, targets, torn):
        super().__init__(inputs, targets)
        self.torn = torn

    def fetch(self, rows):
        if np.isin(rows, self.torn).any():
            raise BrokenRecord("a record is torn")
        return super().fetch(rows)

    def arrays(self):
        return self.fetch(np.arange(len(self)))


class TornWhole(Torn):
    """Nor can their targets."""

    def targets(self, rows):
        if np.isin(rows, self.torn).any():
            raise BrokenRecord("a record is torn")
        return super().targets(rows)
