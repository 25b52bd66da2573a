"""To the Hugging Face Hub and back: publish, pull, verify. Scripts that run from the checkout."""
