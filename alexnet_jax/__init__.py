"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012), split over two devices as the paper split it over two GPUs."""
