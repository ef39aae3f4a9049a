"""Weights and programs in and out."""
