"""The settings that every kind of training run has."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TrainingSettings:
    """Where a run starts, its steps, how it is kept. Rates are per optimizer step, durations are epochs."""

    init_from: str = ""  # weights to start from: a file, a run's folder or a timm name with its tag

    data_dir: str = "data"
    data_terms: str = ""  # what the data may be used for; travels with the weights
    data_hub_id: str = ""  # the data's name on the Hugging Face Hub, for published results
    hflip: float = 0.5
    workers: int = 1
    max_damaged: int = 10  # damaged images before the run stops

    # images of one process in one pass; a step has batch_size * accumulate * processes
    batch_size: int = 128
    accumulate: int = 1
    epochs: int = 10
    val_interval: int = 1  # epochs between two validations; the last epoch is always validated
    opt: str = "sgd"  # timm's "sgd" is Nesterov momentum
    opt_kwargs: dict[str, Any] = field(default_factory=dict)
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_grad: float = 0.0  # largest gradient norm, 0 for no clipping
    sched: str = "cosine"
    min_lr: float = 0.0
    warmup_epochs: int = 0
    warmup_lr: float = 1e-5
    decay_milestones: list[int] = field(default_factory=lambda: [30, 60, 80])  # of sched "multistep"
    decay_epochs: float = 30.0  # of sched "step"
    decay_rate: float = 0.1
    ema_decay: float = 0.0  # of the moving average of the weights, 0 for none
    ema_warmup: bool = False

    offset_lr_scale: float = 0.1
    modulated_lr_scale: float = 1.0  # of modulated weights; 4 lets SGD move doubled ones as plain ones
    offset_weight_decay: float | None = None  # none: weight_decay
    offset_clamp: float = 0.0  # largest |offset|, in pixels of the layer's input; 0 for none
    offset_penalty: float = 0.0  # times the mean squared offset, added to the loss

    device: str = "cpu"  # or "cuda"
    threads: int = 0  # 0 leaves torch's choice
    amp: bool = True
    amp_dtype: str = "bfloat16"  # or "float16", with a gradient scaler
    channels_last: bool = True
    checkpoint_every_steps: int = 0  # besides after every epoch; 0 for none
    checkpoint_every_minutes: float = 0.0
    seed: int = 42
