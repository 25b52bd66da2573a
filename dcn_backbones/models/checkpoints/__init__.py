"""State dicts in and out: other projects' names and conventions turned into ours, and ours into theirs.

    state = read_checkpoint("faster_rcnn_mdconv_c3-c5.pth").state
    imported = import_state(state, "mmdetection")  # the backbone only, in our names
    model = timm.create_model("dcnv2_resnet50", **infer_arguments(imported.state))
    load_imported(model, imported)                 # whole, or not at all
    exported = export_state(model, "detectron2")   # the weights, and the settings they need there

`python -m dcn_backbones.convert` does the same with files.
"""

from .architecture import infer_arguments, infer_model
from .exporting import EXPORTS, Exported, export_state
from .files import Checkpoint, first_sentence, read_checkpoint, reading
from .importing import Imported, import_state
from .layouts import LAYOUTS, find_layout
from .loading import checkpoint_filter_fn, load_imported, load_own_state, load_own_weights
from .torchvision_layers import TorchvisionNames, from_torchvision, to_torchvision

__all__ = [
    "EXPORTS",
    "LAYOUTS",
    "Checkpoint",
    "Exported",
    "Imported",
    "TorchvisionNames",
    "checkpoint_filter_fn",
    "export_state",
    "find_layout",
    "first_sentence",
    "from_torchvision",
    "import_state",
    "infer_arguments",
    "infer_model",
    "load_imported",
    "load_own_state",
    "load_own_weights",
    "read_checkpoint",
    "reading",
    "to_torchvision",
]
