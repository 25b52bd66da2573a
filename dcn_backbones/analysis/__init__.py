"""Looking at what a network does with a photograph: its classes in words, and where it looks for them.

Calls from several threads on one model take turns.
"""

from .annotations import AnnotatedImage, exchange_boxes, read_annotations
from .bins import BinLocations, effective_bin_locations
from .classify import Prediction, classify, load_model
from .dilation import LayerDilation, effective_dilation
from .dilation_table import DilationBySize, dilation_by_size, format_above_background, format_dilation
from .effective_locations import EffectiveLocations, effective_sampling_locations, merge_locations
from .node import ClassLogit, Node, Point, RoI, point_at
from .offset_distribution import OffsetDistribution, offset_distribution
from .offset_health import OffsetHealth, format_health, offset_health
from .overlay import sampling_svg
from .photograph import InputGeometry, Preprocessing, read_image
from .plot import (
    VIEWS,
    draw_sampling,
    plot_bins,
    plot_distribution,
    plot_sampling,
    plot_support,
    plot_view,
)
from .receptive_field import effective_receptive_field
from .record import LayerSampling, record_sampling
from .saliency import SaliencyRegion, saliency_region
from .sampling import SamplingLocations, sampling_locations, trace_sampling
from .support import SpatialSupport, SupportSettings, spatial_support

__all__ = [
    "VIEWS",
    "AnnotatedImage",
    "BinLocations",
    "ClassLogit",
    "DilationBySize",
    "EffectiveLocations",
    "InputGeometry",
    "LayerDilation",
    "LayerSampling",
    "Node",
    "OffsetDistribution",
    "OffsetHealth",
    "Point",
    "Prediction",
    "Preprocessing",
    "RoI",
    "SaliencyRegion",
    "SamplingLocations",
    "SpatialSupport",
    "SupportSettings",
    "classify",
    "dilation_by_size",
    "draw_sampling",
    "effective_bin_locations",
    "effective_dilation",
    "effective_receptive_field",
    "effective_sampling_locations",
    "exchange_boxes",
    "format_above_background",
    "format_dilation",
    "format_health",
    "load_model",
    "merge_locations",
    "offset_distribution",
    "offset_health",
    "plot_bins",
    "plot_distribution",
    "plot_sampling",
    "plot_support",
    "plot_view",
    "point_at",
    "read_annotations",
    "read_image",
    "record_sampling",
    "saliency_region",
    "sampling_locations",
    "sampling_svg",
    "spatial_support",
    "trace_sampling",
]
