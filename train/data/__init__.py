"""Images for training and evaluation: what is yielded depends on the recipe's seed, the epoch and the image only."""

from train.data.loader import create_eval_loader, create_train_loader, create_val_loader, eval_data_config
from train.data.sources import open_dataset

__all__ = [
    "create_eval_loader",
    "create_train_loader",
    "create_val_loader",
    "eval_data_config",
    "open_dataset",
]
