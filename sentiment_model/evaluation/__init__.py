"""Evaluation: a model folder and held-out reviews go in; metrics, the gate's decision and a report come out."""
