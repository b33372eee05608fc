"""MLflow, which nothing else talks to: `tracking` keeps runs, `versions` registered models and their aliases.

`pyfunc_model` is the script that is logged with a model, and with it the whole package.
"""
