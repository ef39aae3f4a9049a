"""The paper: its facts, its claims, its figures."""
