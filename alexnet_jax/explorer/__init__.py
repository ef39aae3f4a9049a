"""A page that shows a network at work: its program for browsers, what its units respond to, and the folder of both."""
