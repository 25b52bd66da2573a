"""The pieces of the page that are HTML of its own: the picture's caption, the legend, rows of bars."""

import base64
import io
from collections import Counter
from html import escape

from PIL import Image

from dcn_backbones.analysis import LayerSampling, Prediction, SamplingLocations
from dcn_backbones.analysis.overlay import EDGE_COLOUR, POINT_COLOUR, REGULAR_COLOUR, SAMPLE_COLOUR

NEGLIGIBLE_SHIFT = 0.02  # in parts of the distance between the samples of a plain convolution


def data_url(photograph: Image.Image) -> str:
    """The photograph itself as an address, so that no file has to be kept for the browser to fetch."""
    file = io.BytesIO()
    photograph.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def notice(sentence: str = "") -> str:
    return f'<p class="notice" role="alert">{escape(sentence)}</p>' if sentence else ""


def top_classes(predictions: list[Prediction]) -> str:
    rows = (
        f'<li><span>{escape(entry.words)}</span><span class="figure">{100 * entry.probability:.1f} %</span>'
        f'<span class="track"><span style="width:{100 * entry.probability:.1f}%"></span></span></li>'
        for entry in predictions
    )
    return f'<h2>What it sees</h2><ol class="classes">{"".join(rows)}</ol>'


def layer_columns(record: list[LayerSampling], shifts: list[float], selected: int) -> str:
    """A column for each layer, as high as its samples are shifted; a click on one chooses the layer."""
    largest = max(*shifts, 1e-9)
    columns = (
        f'<li data-layer="{index + 1}" class="{"selected" if index == selected else ""}" '
        f'title="layer {index + 1}, {escape(entry.name)}: {shift:.1f} pixels">'
        f'<span style="height:{100 * shift / largest:.1f}%"></span></li>'
        for index, (entry, shift) in enumerate(zip(record, shifts, strict=True))
    )
    strides = Counter(entry.stride for entry in record)
    groups = (f'<span style="flex:{count}">stride {stride}</span>' for stride, count in strides.items())
    return (
        f'<h2>How far each layer moves its samples here</h2><p class="scale">{max(shifts):.0f} px</p>'
        f'<ol class="columns">{"".join(columns)}</ol><div class="strides">{"".join(groups)}</div>'
    )


def caption(locations: SamplingLocations, layer: int, layers: int, shift: float, said: str = "") -> str:
    """In words what is drawn; ``shift`` is the mean one of its samples, in pixels of the photograph.

    What is ``said`` of another view takes the place of what can be said of samples.
    """
    name = f"<b>Layer {layer + 1} of {layers}</b> <code>{escape(locations.layers[0])}</code>"
    if said:
        return f'<p class="caption">{name} {escape(said)}</p>'
    outside = len(locations.inside) - int(locations.inside.sum())
    sentences = [_samples(locations), *_shift(locations, shift)]
    if outside:
        lie = "lies" if outside == 1 else "lie"
        sentences.append(f"{outside} of them {lie} outside of what the network sees, where there is nothing.")
    return f'<p class="caption">{name} {" ".join(sentences)}</p>'


def _samples(locations: SamplingLocations) -> str:
    count, below = len(locations.positions), locations.layers[1:]
    if not below:
        return f"reads its input at {count} places for this point, weighted {_weights(locations)}."
    names = " and ".join(f"<code>{escape(name)}</code>" for name in below)
    return f"through {names} reads {count} places for this point: each sample of a layer has samples below."


def _weights(locations: SamplingLocations) -> str:
    low, high = locations.weights.min().item(), locations.weights.max().item()
    return f"from {low:.2f} to {high:.2f}" if f"{low:.2f}" != f"{high:.2f}" else f"{low:.2f} each"


def _shift(locations: SamplingLocations, shift: float) -> list[str]:
    if len(locations.layers) > 1:
        return []
    step = (locations.regular.amax(0) - locations.regular.amin(0)).max().item() / 2  # of a 3x3 kernel
    if shift < NEGLIGIBLE_SHIFT * step:
        return ["They are where a plain convolution has them: the layer's offsets are all but zero."]
    return [f"They lie {shift:.0f} pixels on average from where a plain convolution has them."]


def legend() -> str:
    """What the marks on the picture mean."""
    entries = (
        (POINT_COLOUR, '<path d="M4 10h12M10 4v12"/>', "your point"),
        (POINT_COLOUR, '<path d="M10 3l7 7-7 7-7-7z"/>', "the nearest unit"),
        (REGULAR_COLOUR, '<circle cx="10" cy="10" r="4.5"/>', "a plain convolution's samples"),
    )
    outlined = (
        f'<li><svg viewBox="0 0 20 20" fill="none"><g stroke="{EDGE_COLOUR}" stroke-width="4.6">{shape}</g>'
        f'<g stroke="{colour}" stroke-width="2.2">{shape}</g></svg>{words}</li>'
        for colour, shape, words in entries
    )
    disc = f'<circle cx="10" cy="10" r="7" fill="{SAMPLE_COLOUR}" stroke="{EDGE_COLOUR}"/>'
    sample = f'<li><svg viewBox="0 0 20 20">{disc}</svg>its samples, sized by weight</li>'
    return f'<ul class="legend">{"".join(outlined)}{sample}</ul>'
