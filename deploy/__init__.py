"""What operates the pipeline: its Prefect objects as code, and the servers of one machine.

It stands outside the installed package, beside the files it applies: a worker needs the checkout in any case, since
``prefect.yaml`` names its flows by path.
"""
