"""The networks: recurrent cells, poolings and n-grams; batches of token ids go in, logits come out."""
