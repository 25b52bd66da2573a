"""Training, evaluation and export scripts: run from the checkout, not installed."""
