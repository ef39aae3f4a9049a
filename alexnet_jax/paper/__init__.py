"""The paper: its facts, claims, figures and tables."""
