"""Training: token ids go in, a model folder and the history of its epochs come out.

`loop` trains any `objective`; `classification` and `language_model` are two; `fitting` puts the phases together, and
`job` runs them in one process or several.
"""
