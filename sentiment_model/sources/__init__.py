"""Sources of reviews: each streams batches of records and quarantines the ones that it cannot read."""
