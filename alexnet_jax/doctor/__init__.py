"""What `alexnet doctor` says about a machine: `look` records facts, `diagnose` judges them, here or elsewhere."""
