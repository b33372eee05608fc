"""Prefect tasks: one thin task around each stage of :mod:`sentiment_model`."""
