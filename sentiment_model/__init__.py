"""Recurrent sentiment classifier: data stages, networks, training, evaluation and scoring, each in a room of its own.

Imports go downward only: `upkeep` > `registry` > `scoring`, `evaluation` > `training` > `models` > `sources` > `text` >
`networks`, `store` > the modules here, which know none of ours below them. Nothing knows Prefect, and only `registry`
knows MLflow, so every function can be used from a notebook.
"""
