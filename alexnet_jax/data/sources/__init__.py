"""Where images come from: one module a kind of source, and their registry."""
