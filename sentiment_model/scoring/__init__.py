"""Bulk scoring, every row once: review files and a model go in, a table of labelled rows comes out.

`table` is the protocol by which rows get into the table, with its `claims` and its `ledger`; `planning` and `shards`
cut files; `label` scores a shard, and `engines` run shards; `summary` and `report` say what came of it.
"""
