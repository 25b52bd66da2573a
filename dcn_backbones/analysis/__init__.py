"""Looking at what a network does with a photograph: its classes in words, and where it looks for them."""

from .annotations import AnnotatedImage, read_annotations
from .bins import BinLocations, effective_bin_locations
from .classify import Prediction, classify, load_model
from .dilation import LayerDilation, effective_dilation
from .dilation_table import DilationBySize, dilation_by_size, format_dilation
from .effective_locations import EffectiveLocations, effective_sampling_locations, merge_locations
from .node import ClassLogit, Node, Point, RoI, point_at
from .offset_health import OffsetHealth, format_health, offset_health
from .overlay import sampling_svg
from .photograph import InputGeometry, Preprocessing, read_image
from .plot import draw_sampling, plot_sampling
from .receptive_field import effective_receptive_field
from .record import LayerSampling, record_sampling
from .saliency import SaliencyRegion, saliency_region
from .sampling import SamplingLocations, sampling_locations, trace_sampling

__all__ = [
    "AnnotatedImage",
    "BinLocations",
    "ClassLogit",
    "DilationBySize",
    "EffectiveLocations",
    "InputGeometry",
    "LayerDilation",
    "LayerSampling",
    "Node",
    "OffsetHealth",
    "Point",
    "Prediction",
    "Preprocessing",
    "RoI",
    "SaliencyRegion",
    "SamplingLocations",
    "classify",
    "dilation_by_size",
    "draw_sampling",
    "effective_bin_locations",
    "effective_dilation",
    "effective_receptive_field",
    "effective_sampling_locations",
    "format_dilation",
    "format_health",
    "load_model",
    "merge_locations",
    "offset_health",
    "plot_sampling",
    "point_at",
    "read_annotations",
    "read_image",
    "record_sampling",
    "saliency_region",
    "sampling_locations",
    "sampling_svg",
    "trace_sampling",
]
