"""Looking at what a network does with a photograph: its classes in words, and where it samples."""

from .classify import Prediction, classify, load_model
from .offset_health import OffsetHealth, format_health, offset_health
from .overlay import sampling_svg
from .photograph import InputGeometry, Preprocessing, read_image
from .plot import draw_sampling, plot_sampling
from .record import LayerSampling, record_sampling
from .sampling import SamplingLocations, sampling_locations, trace_sampling

__all__ = [
    "InputGeometry",
    "LayerSampling",
    "OffsetHealth",
    "Prediction",
    "Preprocessing",
    "SamplingLocations",
    "classify",
    "draw_sampling",
    "format_health",
    "load_model",
    "offset_health",
    "plot_sampling",
    "read_image",
    "record_sampling",
    "sampling_locations",
    "sampling_svg",
    "trace_sampling",
]
