"""Images for training and evaluation, whose augmentation depends on seed, epoch and image only."""

from train.data.evaluation import create_eval_loader, create_val_loader, eval_data_config
from train.data.loader import create_train_loader
from train.data.sources import open_dataset

__all__ = [
    "create_eval_loader",
    "create_train_loader",
    "create_val_loader",
    "eval_data_config",
    "open_dataset",
]
