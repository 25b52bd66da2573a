"""A page that shows where a deformable network looks in a photograph.

python hub/space/app.py
python hub/space/app.py --model hf-hub:OWNER/NAME --port 8000

Exit status: 0 ended as asked, 2 called wrongly.
"""

import argparse
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gradio as gr
from looking import Look, load, look, zoo_choices
from pieces import caption, data_url, layer_columns, legend, notice, top_classes
from PIL import Image
from uploads import (
    FILE_TOO_LARGE,
    LARGEST_FILE,
    forget,
    keep_removing_abandoned,
    private_folder,
    read_upload,
)

from dcn_backbones.analysis import read_image
from dcn_backbones.command import CommandParser, exit_status

FOLDER = Path(__file__).parent
EXAMPLE = FOLDER / "chelsea.png"
FIRST_LAYER = 9
SESSIONS = 100  # photographs in memory; the oldest goes first
IDLE_SECONDS = 30 * 60  # that a photograph stays in memory after the last click
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}  # nothing to fetch
VIEWS = [
    ("Samples", "samples"),
    ("Their strengths", "strengths"),
    ("Receptive field", "field"),
    ("Saliency region (takes a while)", "region"),
]
LEVELS = [("1 layer", 1), ("2 layers", 2), ("3 layers", 3)]
STAGE = (
    '<div class="frame" style="--aspect:${aspect}"><img src="${photo}" alt="the photograph">${value}</div>'
    + legend()
)
CHOOSE_LAYER = """element.addEventListener("click", (event) => {
  const row = event.target.closest("[data-layer]");
  if (row) trigger("click", { layer: Number(row.dataset.layer) });
});"""
FORGOTTEN = "This photograph was forgotten while the page rested; please drop it in again."
CHANGE_THEME = "() => { document.body.classList.toggle('dark'); }"


class Page:
    """The components of the page, and what happens in them.

    Args:
        models: What can be chosen, ``(what is shown, name)``; the page starts with the first.
    """

    def __init__(self, models: list[tuple[str, str]]) -> None:
        with gr.Blocks(title="Where does a deformable network look?", analytics_enabled=False) as self.blocks:
            self.look = gr.State(None, time_to_live=IDLE_SECONDS)
            self._lay_out(models)
            self._connect()

    def _lay_out(self, models: list[tuple[str, str]]) -> None:
        with gr.Row():
            gr.HTML((FOLDER / "heading.html").read_text(encoding="utf-8"), elem_id="heading", scale=5)
            self.theme = gr.Button("Light / dark", size="sm", elem_id="theme", scale=0)
        with gr.Row():
            with gr.Column(scale=7, min_width=420):
                self._lay_out_picture()
            with gr.Column(scale=4, min_width=320):
                self._lay_out_choices(models)

    def _lay_out_picture(self) -> None:
        with gr.Column(elem_id="picture"):
            self.stage = gr.HTML(
                "",
                html_template=STAGE,
                js_on_load=(FOLDER / "stage.js").read_text(encoding="utf-8"),
                photo="",
                aspect=1.5,
                largest_file=LARGEST_FILE,
                elem_id="stage",
            )
            self.progress = gr.HTML(elem_id="progress")
        with gr.Row():
            self.layer = gr.Slider(1, FIRST_LAYER, FIRST_LAYER, step=1, label="Layer", elem_id="layer")
            self.levels = gr.Radio(LEVELS, value=1, label="Follow the samples through", elem_id="levels")
        self.view = gr.Radio(VIEWS, value="samples", label="Show", elem_id="view")
        self.caption = gr.HTML(elem_id="caption")
        gr.HTML((FOLDER / "notes.html").read_text(encoding="utf-8"), elem_id="notes")

    def _lay_out_choices(self, models: list[tuple[str, str]]) -> None:
        self.upload = gr.File(label="Drop in a photograph", height=130, elem_id="upload")
        self.notice = gr.HTML(elem_id="notice")
        self.model = gr.Dropdown(models, value=models[0][1], label="Model", elem_id="model")
        self.classes = gr.HTML(elem_id="classes")
        self.columns = gr.HTML(js_on_load=CHOOSE_LAYER, elem_id="columns")

    def _connect(self) -> None:
        shown = [self.look, self.stage, self.caption, self.layer, self.columns, self.classes, self.notice]
        shown += [self.upload, self.model]
        view = [self.look, self.layer, self.levels, self.view]
        # Progress is shown on no output: a status that meets a new value there may put back the old one, and
        # even a hidden one has words that a screen reader tells.
        common = {"outputs": shown, "api_visibility": "private", "show_progress_on": self.progress}
        quick = {**common, "show_progress": "hidden", "trigger_mode": "always_last"}
        heavy = {**common, "concurrency_id": "network", "concurrency_limit": 1}
        self.blocks.load(self.open_example, [self.model, self.levels, self.view], **heavy)
        self.upload.upload(self.open_upload, [self.upload, self.model, *view], **heavy)
        # Not `input`, which a choice by mouse sends twice, nor `select`, which one by keyboard does not send.
        self.model.change(self.choose_model, [self.model, *view], **heavy)
        self.stage.click(self.choose_point, view, **quick)
        self.stage.step(self.move_point, view, **{**quick, "trigger_mode": "multiple"})  # each one counts
        self.stage.refuse(lambda: {self.notice: notice(FILE_TOO_LARGE)}, **quick)
        self.columns.click(self.choose_layer, view, **quick)
        gr.on([self.layer.input, self.levels.input], self.show, view, **quick)
        self.view.input(self.show, view, **heavy)
        self.theme.click(None, js=CHANGE_THEME)

    def open_example(self, model: str, levels: int, view: str) -> dict:
        return self._new_look(model, read_image(EXAMPLE), None, FIRST_LAYER, levels, view)

    def open_upload(
        self, path: str, model: str, before: Look | None, layer: int, levels: int, view: str
    ) -> dict:
        try:
            photograph = read_upload(path)
        except ValueError as error:
            return {self.notice: notice(str(error)), self.upload: None}
        finally:
            forget(path)
        return {**self._new_look(model, photograph, None, layer, levels, view), self.upload: None}

    def choose_model(self, model: str, before: Look | None, layer: int, levels: int, view: str) -> dict:
        if before is None:
            return self.open_example(model, levels, view)
        if before.model == model:  # the page went back to it
            return gr.skip()
        try:
            return self._new_look(model, before.photograph, before.point, layer, levels, view)
        except ValueError as error:
            return {self.notice: notice(sentence(error)), self.model: before.model}

    def choose_point(
        self, before: Look | None, layer: int, levels: int, view: str, event: gr.EventData
    ) -> dict:
        return self._point(before and partial(before.at_part, event.x, event.y), layer, levels, view)

    def move_point(
        self, before: Look | None, layer: int, levels: int, view: str, event: gr.EventData
    ) -> dict:
        return self._point(before and partial(before.moved, event.x, event.y), layer, levels, view)

    def _point(self, look_there: Callable[[], Look] | None, layer: int, levels: int, view: str) -> dict:
        if look_there is None:
            return {self.notice: notice(FORGOTTEN)}
        try:
            after = look_there()
        except ValueError as error:
            return {self.notice: notice(str(error))}
        return {self.look: after, **self.show(after, layer, levels, view)}

    def choose_layer(
        self, look: Look | None, layer: int, levels: int, view: str, event: gr.EventData
    ) -> dict:
        return {self.layer: event.layer, **self.show(look, event.layer, levels, view)}

    def show(self, look: Look | None, layer: int, levels: int, view: str) -> dict:
        """What changes on the page with the point and the layer."""
        if look is None:
            return {self.notice: notice(FORGOTTEN)}
        index = min(layer, len(look.record)) - 1
        locations, shifts = look.locations(index, levels), look.shifts()
        picture, said = look.show(view, index, levels)
        return {
            self.stage: picture,
            self.caption: caption(locations, index, len(look.record), shifts[index], said),
            self.columns: layer_columns(look.record, shifts, index),
            self.notice: "",
        }

    def _new_look(
        self,
        model: str,
        photograph: Image.Image,
        point: tuple[float, float] | None,
        layer: int,
        levels: int,
        view: str,
    ) -> dict:
        """What changes on the page with the photograph and the model."""
        after = look(model, photograph, point)
        layers = len(after.record)
        shown = self.show(after, layer, levels, view)
        shown[self.stage] = gr.HTML(
            shown[self.stage], photo=data_url(photograph), aspect=photograph.width / photograph.height
        )
        return {
            **shown,
            self.look: after,
            self.layer: gr.Slider(visible=layers > 1, maximum=max(layers, 2), value=min(layer, layers)),
            self.classes: top_classes(after.predictions),
        }


def sentence(error: Exception) -> str:
    text = str(error).rstrip(".")
    return f"{text[0].upper()}{text[1:]}."


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = CommandParser(__doc__, "python hub/space/app.py")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="offer this model too, and first: a name that timm knows, local-dir:FOLDER or hf-hub:OWNER/NAME",
    )
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument(
        "--port", type=_port, help="port to listen on (default: the first free one from 7860)"
    )
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected 1 to 65535")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # an orderly end removes the folder of uploads
    return exit_status(lambda: serve(options), error=2)


def serve(options: argparse.Namespace) -> None:
    for name in options.model:
        load(name)  # a name that does not work should say so here and not on the page
    uploads = private_folder()
    page = Page([(name, name) for name in options.model] + zoo_choices())
    keep_removing_abandoned(uploads)
    page.blocks.launch(
        server_name=options.host,
        server_port=options.port,
        max_file_size=LARGEST_FILE,
        state_session_capacity=SESSIONS,
        run_history=False,  # it would keep what visitors looked at
        ssr_mode=False,
        footer_links=[],
        theme=gr.themes.Default(primary_hue="sky", **FONTS),
        css_paths=FOLDER / "page.css",
    )


if __name__ == "__main__":
    sys.exit(main())
