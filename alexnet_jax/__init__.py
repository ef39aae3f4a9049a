"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012), split over two devices as the paper split it over two GPUs."""

import time

STARTED = time.monotonic()  # before anything large is imported, so about when the command was given
