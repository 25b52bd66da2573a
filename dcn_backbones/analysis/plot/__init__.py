"""Pictures of what this package finds, with matplotlib: PNG or SVG, on a light or a dark page.

Colours are Okabe and Ito's orange and sky blue and matplotlib's inferno, which people with any kind of colour
blindness tell apart.
"""

from .distribution import plot_distribution
from .sampling import draw_sampling, plot_sampling
from .support import VIEWS, plot_bins, plot_support, plot_view

__all__ = [
    "VIEWS",
    "draw_sampling",
    "plot_bins",
    "plot_distribution",
    "plot_sampling",
    "plot_support",
    "plot_view",
]
