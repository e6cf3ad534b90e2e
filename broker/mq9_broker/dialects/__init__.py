"""Dialects: one module per family of subjects. Words in, operations out; results in, JSON out."""
