"""Speed measurements of the parts of the program, each beside others that do the same."""
