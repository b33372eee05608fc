"""What each process of a training on several runs: ``torchrun ... -m sentiment_model.training_job JOB.json``."""

import sys

from sentiment_model.training.job import main

if __name__ == "__main__":
    sys.exit(main())
