"""Training that does not begin to learn: its loss stays where guessing is, and the run should say so."""

import math

NEAR = 0.01  # of ln(classes): how near a loss is to that of guessing
MESSAGE = """\
the loss has been at ln({classes}) = {guessing:.3f}, that of guessing, for {steps} steps. Known causes and their cures:
  - weights of 0.01 and biases of 1 in conv4 and conv5, as in the paper's text: the signal all but vanishes there. The
    authors' code starts conv3-5 at 0.03: --config.model.conv3.init_std=0.03, conv4 and conv5 alike. A few thousand
    steps at the start are usual even then
  - other than the paper's sizes: use init_std = sqrt(2 / inputs of a unit) and biases of 0, as configs/digits.py does
  - a learning rate too small, or so large that units died: try --config.optim.learning_rate at a third and at thrice"""


class Plateau:
    """Counts for how many steps the loss has been that of guessing."""

    def __init__(self, num_classes: int, steps: int, step: int):
        self._classes, self._steps, self._since, self._told = num_classes, steps, step, False

    def look(self, step: int, loss: float) -> str | None:
        """What to tell about the mean `loss` (nats) of the steps up to `step`, once; None if there is nothing."""
        guessing = math.log(self._classes)
        if loss < (1 - NEAR) * guessing:
            self._since = step
        if self._told or step - self._since < self._steps:
            return None
        self._told = True
        return MESSAGE.format(classes=self._classes, guessing=guessing, steps=step - self._since)
