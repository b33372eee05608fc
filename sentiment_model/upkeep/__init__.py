"""What keeps a store from growing for ever: old datasets, scores, checkpoints and runs that nobody needs go."""
